"""The control plane: reads specs, decides who holds which devices until when, and keeps the books.

Knows nothing of tensors: training lives in `jobs`, answering requests in `serving`.
"""
