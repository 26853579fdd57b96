"""The msgld command."""
