"""How datasets lie on disk as their publishers or other tools leave them, one module a layout."""
