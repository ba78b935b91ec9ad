"""Checkpoints from a Hugging Face compatible hub: asked for, downloaded, checked.

Knows HTTP and folders; knows no registry and runs nothing of what it downloads. Of the library
huggingface_hub it takes addresses. Requests are our own: the library's own headers tell more of
this machine than a download needs, and its downloads begin anew after they broke off.
"""
