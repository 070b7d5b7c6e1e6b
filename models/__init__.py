"""What is trained. Every architecture is one file here, and each of its variants one line of `register_variants`."""

from models.registry import (
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
    variant,
)

__all__ = [
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
    "variant",
]
