"""Datasets: reading, recording, describing and showing demonstrations."""
