"""The engine that edits with a model, through the pipelines of diffusers. torch is imported in this
package alone."""
