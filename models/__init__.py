"""What is trained. Every architecture is one file here, each of its variants registered by name with one decorator."""

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
]
