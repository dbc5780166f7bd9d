"""Programs for developers; nothing here is deployed."""
