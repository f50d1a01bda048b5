"""One hash of what kept results depend on: with other settings or weights they are made again."""

import hashlib
import json
from typing import Any

from torch import nn


def content_hash(*parts: nn.Module | dict[str, Any] | None) -> str:
    """Compute a hash of settings and weights. The weights' precision does not enter.

    Args:
        parts: dicts of settings, networks, or None, in order.

    Returns:
        SHA-256, hexadecimal.
    """
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, nn.Module):
            for weight in part.state_dict().values():
                found.update(weight.float().contiguous().cpu().numpy().tobytes())
        else:
            found.update(json.dumps(part, sort_keys=True, default=str).encode())
    return found.hexdigest()
