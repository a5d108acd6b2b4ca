"""Adapters: the transport inside other people's programs. Each loads by that program's own plugin mechanism.

vllm, sglang  one engine each; these two know nothing of each other

settings      what SHMTRANSPORT_* says
seams         looking at an engine's methods, before they are wrapped
ahead         growing and mapping before somebody has to wait for it
rings         rings that a process has joined
leaving       removing names that killed processes leave
"""
