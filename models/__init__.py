"""What is trained. Every architecture is one file here, each of its variants registered by name with one decorator."""

from models.registry import check_name, create_model, find_model, list_models, register_model

__all__ = ["check_name", "create_model", "find_model", "list_models", "register_model"]
