"""An agent of somebody else's."""

from moto_pl.agents import MOTO


class Mine(MOTO):
    """MOTO by another name."""
