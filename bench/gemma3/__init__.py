"""One request of Gemma-3 with many images, from vLLM's frontend to its engine, in the ways that vLLM has known."""
