"""A search from its first draw to its report: what happened is a journal, everything else follows from it.

Refuses to know Ray and torch: who draws and who runs stand behind ports (`ports.py`); the choices themselves are in
`orchestrator.policy.study`.
"""
