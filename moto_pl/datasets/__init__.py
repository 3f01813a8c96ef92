"""The workshop of datasets: episodes in and out. It knows no agent and no network."""
