"""Gemma 3 in its 12B shape on vLLM and GPUs, for `bench/gpu_vllm.py`.

shape    the checkpoint, without weights, and how vLLM is to serve it
serve    the child process that serves it and asks
report   what was measured, a row a kind of request
"""
