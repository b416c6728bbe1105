"""`security.payload_hash` of a payload that is being written, in the form that the options ask for.

Guaranteed: the TREE form reads nothing again, because it is made of the files' digests. The STREAM
form reads the payload once more, piece by piece, in the order of the paths.
Still wrong: the STREAM form is one pass of one thread over the whole payload, about a second a GB.
The packer does nothing else meanwhile, so its other studies wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fastjmix.errors import EnvelopeError
from fastjmix.jmix.digests import File, new_hash, stream_hash, tree_hash
from fastjmix.jmix.member_names import folders_of
from fastjmix.jmix.write.envelope import BELOW, PAYLOAD, Digest, Document, Options


def hexadecimal(data: bytes, digest: Digest) -> str:
    """Returns the digest of `data` in lower-case hexadecimal."""
    found = new_hash(digest)
    found.update(data)
    return found.hexdigest()


def payload_hash(files: Sequence[File], documents: Iterable[Document], options: Options) -> str:
    """Returns the payload's hash; `documents` are those of the payload.

    Raises OSError when the payload cannot be read again, EnvelopeError when the options lack the
    function that reads it.
    """
    if options.payload_hash == "tree":
        return tree(files, options.digest)
    read = options.read
    if read is None:
        raise EnvelopeError(
            "the payload cannot be read again for its hash",
            'This is a fault of fastjmix: payload_hash = "stream" needs it.',
        )
    written = {document.name[BELOW:].decode(): document.data for document in documents}

    def pieces(path: str) -> Iterable[bytes]:
        return (written[path],) if path in written else read(f"{PAYLOAD}/{path}".encode())

    return stream_hash(options.digest, [file.path for file in files], pieces)


def tree(files: Sequence[File], digest: Digest) -> str:
    """Returns the TREE form over these files and the folders that their names imply."""
    return tree_hash(digest, files, folders_of(file.path for file in files))
