"""Model configurations and loading."""
