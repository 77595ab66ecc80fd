"""The engine as a Hugging Face Inference Endpoint: `handler.py` and `requirements.txt` go into a model repository."""
