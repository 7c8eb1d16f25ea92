"""What schemathesis sends where the description of the API says no more than `binary`: a picture.

It is imported by the process that `tests/hostile/test_description.py` starts.
"""

import schemathesis
from hypothesis import strategies as st

from tests.support.pictures import encoded

schemathesis.openapi.format("binary", st.just(encoded()))
