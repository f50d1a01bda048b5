"""What kept results depend on, as one hash: with other settings or weights they are made again."""

import hashlib
import json
from typing import Any

from torch import nn


def content_hash(*parts: nn.Module | dict[str, Any] | None) -> str:
    """A hash (SHA-256, hexadecimal) of settings and weights; the weights' precision does not enter."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, nn.Module):
            for weight in part.state_dict().values():
                found.update(weight.float().contiguous().cpu().numpy().tobytes())
        else:
            found.update(json.dumps(part, sort_keys=True, default=str).encode())
    return found.hexdigest()
