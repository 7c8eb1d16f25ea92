"""The engine that edits with a model, by pipelines of diffusers.

No other package imports torch.
"""
