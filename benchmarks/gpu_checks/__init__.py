"""The parts of ``gpu_check.py``, and how they are run."""
