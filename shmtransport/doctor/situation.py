"""What is examined: this process on this host, and the vLLM that would be started in its place."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from shmtransport.adapters.settings import RingSize, Settings
from shmtransport.config import RingConfig
from shmtransport.errors import ConfigError
from shmtransport.formatting import GIB
from shmtransport.layout import control_nbytes


@dataclass(frozen=True)
class Situation:
    """The options are vLLM's, with its defaults."""

    mm_processor_cache_gb: float = 4.0
    api_server_count: int = 1
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    root: Path = Path("/")
    """Of the files that say how this host is set up."""

    def settings(self) -> Settings | None:
        """What the plugin goes by; None where it is off, because it is switched off or a setting is wrong."""
        try:
            settings = Settings.from_environment(self.environment)
        except ConfigError:
            return None
        return settings if settings.enabled else None

    def input_ring(self) -> RingSize:
        """The ring of one API server, as it would be made now; by the defaults where the plugin is off."""
        with suppress(ConfigError):  # SHMTRANSPORT_BACKING, at which every ring looks
            return self._sized(self.settings() or Settings.from_environment({}))
        return self._sized(Settings.from_environment({"SHMTRANSPORT_BACKING": "memfd"}))

    def _sized(self, settings: Settings) -> RingSize:
        return settings.input_ring(self.mm_processor_cache_gb, self.api_server_count)

    def wanted_nbytes(self) -> int:
        """What the ring of one API server should have: what was asked for, else vLLM's cache and a GiB."""
        settings = self.settings()
        if settings is not None and settings.capacity_nbytes is not None:
            return settings.capacity_nbytes
        return int(max(self.mm_processor_cache_gb, 0.0) * GIB) + GIB

    def roomy_nbytes(self) -> int:
        """With so many bytes of shared memory nothing is short: twice the rings of all API servers, of which the plugin
        takes half at most, and not less than eight times the ring for outputs."""
        return max(2 * self.wanted_nbytes() * max(self.api_server_count, 1), 8 * self.outputs_nbytes())

    def outputs_nbytes(self) -> int:
        """What an EngineCore's ring for outputs should have."""
        return min(self.wanted_nbytes(), 512 << 20)


def first_nbytes(size: RingSize) -> tuple[int, int]:
    """Bytes of the two segments with which a ring begins: the control segment, and the first one for blocks."""
    config = RingConfig.checked(
        capacity=size.capacity_nbytes,
        segment=size.segment_nbytes,
        entries=None,
        on_full="inline",
        timeout_s=0,
        name="",
        backing=size.backing,
    )
    return control_nbytes(config.entries), config.segment_nbytes
