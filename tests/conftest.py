"""Fixtures that several test files share."""

import jaxtyping
import pytest


@pytest.fixture(scope="module")
def unchecked():
    """Switches run-time shape checks off: for long runs, where they take most of the time."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
