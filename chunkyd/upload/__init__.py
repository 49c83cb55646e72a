"""The client library: one file to one server, resumable and verified.

    from chunkyd.upload import Uploader
    result = Uploader("http://127.0.0.1:8420", "footage.mov").upload()

source       the file: lock, lease, fingerprint, hash, chunks
machine      what to do next, pure; sizing: how big a chunk is
transport    requests (their body) over connections that can be watched and cut (connection), at a rate (limiter);
             answers: what an answer means, reasons: why there was none
memory       what is remembered over crashes; sqlite_memory: in one file
run          drives the machine with a crew of threads, under a control (pause, stop)
uploader     one upload from end to end; many: several, tree: which
"""

from chunkyd.upload.limiter import Limiter as Limiter
from chunkyd.upload.memory import Memory as Memory
from chunkyd.upload.memory import Remembered as Remembered
from chunkyd.upload.memory import UploadKey as UploadKey
from chunkyd.upload.progress import Progress as Progress
from chunkyd.upload.source import install_lease_handler as install_lease_handler
from chunkyd.upload.sqlite_memory import SqliteMemory as SqliteMemory
from chunkyd.upload.transport import Client as Client
from chunkyd.upload.uploader import Result as Result
from chunkyd.upload.uploader import Uploader as Uploader
