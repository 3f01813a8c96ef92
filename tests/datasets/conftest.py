import pytest

from moto_pl.envs.rendering import select_backend
from moto_pl.errors import SettingError


@pytest.fixture(scope="session")
def gl() -> str:
    """The OpenGL backend that answers here; without any, what needs one is skipped."""
    try:
        return select_backend()
    except SettingError as error:
        pytest.skip(f"no OpenGL: {error}")
