"""What a server's codebooks take, as its own metrics page says."""

import time
from typing import Final, Self
from urllib.parse import urlsplit

import httpx
from prometheus_client.parser import text_string_to_metric_families

from horen_vllm.loopback import is_loopback

_FRESH_WITHIN_S: Final = 8.0
"""The page is read from the engine every two seconds."""
_POLL_S: Final = 0.3
_TIMEOUT_S: Final = 10.0


class ServerMemory:
    """Keys and values of all codebooks of a server, in bytes on each rank.

    Parameters
    ----------
    url
        ``http://HOST:PORT``.
    api_key
        Sent as a bearer token; a server with keys shows the page to admin keys only.
    """

    def __init__(self, url: str, *, api_key: str | None = None) -> None:
        self._http = httpx.Client(
            base_url=url.rstrip("/").removesuffix("/v1"),
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=_TIMEOUT_S,
            trust_env=not is_loopback(urlsplit(url).hostname or ""),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._http.close()

    def used(self, codebook: str, entries: int) -> int | None:
        """Return the bytes in use once the page shows `codebook` with so many entries.

        None where the server has no such page, does not show it, or does not come to show that.
        """
        deadline = time.monotonic() + _FRESH_WITHIN_S
        while True:
            read = self._read(codebook)
            if read is None or read[0] == entries:
                return None if read is None else read[1]
            if time.monotonic() > deadline:
                return None
            time.sleep(_POLL_S)

    def _read(self, codebook: str) -> tuple[int, int] | None:
        """Return the entries of a codebook and the bytes of all."""
        try:
            answer = self._http.get("/metrics")
        except httpx.HTTPError:
            return None
        if answer.status_code != httpx.codes.OK:
            return None
        entries = 0
        parts: dict[str, dict[str, float]] = {"horen_pages_used": {}, "horen_page_bytes": {}}
        try:
            for family in text_string_to_metric_families(answer.text):
                for sample in family.samples:
                    if sample.name in parts:
                        parts[sample.name][sample.labels["kind"]] = sample.value
                    elif sample.name == "horen_entries" and sample.labels.get("codebook") == codebook:
                        entries = int(sample.value)
        except (ValueError, KeyError):
            return None
        used, sizes = parts["horen_pages_used"], parts["horen_page_bytes"]
        if not used or used.keys() != sizes.keys():
            return None
        return entries, round(sum(count * sizes[kind] for kind, count in used.items()))
