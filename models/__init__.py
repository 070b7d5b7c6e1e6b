"""What is trained. Every architecture is one file here, and each of its variants one line of `register_variants`."""

from models.registry import (
    FROM_WEIGHTS,
    all_arguments,
    check_name,
    create_model,
    default_arguments,
    find_model,
    image_size,
    list_models,
    published_statistics,
    register_model,
    register_variants,
    settle_arguments,
    variant,
)

__all__ = [
    "FROM_WEIGHTS",
    "all_arguments",
    "check_name",
    "create_model",
    "default_arguments",
    "find_model",
    "image_size",
    "list_models",
    "published_statistics",
    "register_model",
    "register_variants",
    "settle_arguments",
    "variant",
]
