"""What can be wrong, by name."""


class VLABenchClientError(RuntimeError):
    """Something that the client cannot do; says what was wrong and what to do."""


class ServerMismatchError(VLABenchClientError):
    """A server of another protocol, for another robot, or with chunks that cannot be executed."""


class ObservationMismatchError(VLABenchClientError):
    """An observation of VLABench that lacks what the policy needs."""


class NotInstalledError(VLABenchClientError):
    """VLABench, or something that it needs, cannot be imported."""


class UnknownTaskError(VLABenchClientError):
    """A task or track that VLABench does not have, or episodes that a track does not have."""


class EpisodeError(VLABenchClientError):
    """An episode that VLABench cannot set up."""


class AssetsError(EpisodeError):
    """Meshes, textures or scenes of VLABench that are not there."""


class RecordMismatchError(VLABenchClientError):
    """The output directory holds something else; nothing in it was changed."""
