"""Neural scenes made for measuring and testing: small trainers, and files as the originals write.

Nothing here is used to read or draw scenes: it is what readers and engines are compared with, and
shares no code with them.
"""
