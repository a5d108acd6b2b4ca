"""Adapters: the transport inside other people's programs. Each loads by that program's own plugin mechanism."""
