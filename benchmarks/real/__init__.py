"""Parts of ``benchmarks/real_videos.py``: its recipe, tables and pictures."""
