//! The outputs of a run for whoever cannot read its disk: they are offered on the control port, from the run's end until
//! somebody has fetched them whole or a time is over.

pub mod fetch;
pub mod names;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tailcliff_proto::v1::results_server::Results;
use tailcliff_proto::v1::{self, FilePart, Listing, ResultFile};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::export::PARQUET_FILES;
use crate::journal;
use crate::outputs::FILES;

/// Bytes of a part.
const PART_BYTES: usize = 256 << 10;
/// A reader that takes nothing for so long is gone.
const READER_PATIENCE: Duration = Duration::from_secs(60);

/// What a coordinator has to hand out; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Shelf {
    offered: Arc<Mutex<Offered>>,
    fetched: CancellationToken,
    stop: Option<mpsc::Sender<String>>,
    stopped: CancellationToken,
}

#[derive(Debug, Default)]
struct Offered {
    dir: Option<PathBuf>,
    listing: Listing,
}

impl Shelf {
    /// An empty one; a message to `stop` ends the run.
    pub fn new(stop: mpsc::Sender<String>) -> Self {
        Self { stop: Some(stop), ..Self::default() }
    }

    /// The run is over: from now on `listing` is told, and the files of `dir` are handed out.
    pub fn offer(&self, dir: Option<PathBuf>, mut listing: Listing) {
        listing.over = true;
        listing.files = dir.as_deref().map(files).unwrap_or_default();
        *self.lock() = Offered { dir, listing };
    }

    /// Somebody has it all.
    pub async fn fetched(&self) {
        self.fetched.cancelled().await;
    }

    /// The run was ended by somebody who means to fetch what it measured.
    pub fn was_stopped(&self) -> bool {
        self.stopped.is_cancelled()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Offered> {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file that was offered by exactly this name: what else a peer asks for is no path here.
    fn find(&self, name: &str) -> Result<(PathBuf, u64), Status> {
        let offered = self.lock();
        let file = offered.listing.files.iter().find(|file| file.name == name);
        let (Some(file), Some(dir)) = (file, &offered.dir) else {
            return Err(Status::not_found("no such file is offered"));
        };
        Ok((dir.join(&file.name), file.size_bytes))
    }
}

/// The journal first and the summary last.
fn files(dir: &Path) -> Vec<ResultFile> {
    let names = std::iter::once(journal::FILE_NAME).chain(PARQUET_FILES).chain(FILES);
    let file = |name: &str| {
        let facts = std::fs::metadata(dir.join(name)).ok().filter(std::fs::Metadata::is_file)?;
        Some(ResultFile { name: name.to_owned(), size_bytes: facts.len() })
    };
    names.filter_map(file).collect()
}

type Parts = Pin<Box<dyn Stream<Item = Result<FilePart, Status>> + Send>>;

#[tonic::async_trait]
impl Results for Shelf {
    type FetchStream = Parts;

    async fn list(&self, _: Request<v1::ListRequest>) -> Result<Response<Listing>, Status> {
        Ok(Response::new(self.lock().listing.clone()))
    }

    async fn fetch(&self, request: Request<v1::FetchRequest>) -> Result<Response<Parts>, Status> {
        let asked = request.into_inner();
        let (path, size) = self.find(&asked.name)?;
        if asked.offset_bytes > size {
            return Err(Status::out_of_range("the file is shorter than that"));
        }
        let (out, parts) = mpsc::channel(4);
        tokio::spawn(async move {
            if let Err(status) = send(&path, asked.offset_bytes..size, &out).await {
                // Whoever asked may be gone.
                let _gone = out.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(parts))))
    }

    async fn stop(&self, _: Request<v1::StopRequest>) -> Result<Response<v1::StopReply>, Status> {
        let stop = self.stop.as_ref().ok_or_else(|| Status::unimplemented("this run cannot be stopped"))?;
        self.stopped.cancel();
        // A full queue holds such a message already, and a closed one is a run that is over.
        let _enough = stop.try_send("interrupted".to_owned());
        Ok(Response::new(v1::StopReply {}))
    }

    async fn finish(&self, _: Request<v1::FinishRequest>) -> Result<Response<v1::FinishReply>, Status> {
        if !self.lock().listing.over {
            return Err(Status::failed_precondition("the run is not over"));
        }
        self.fetched.cancel();
        Ok(Response::new(v1::FinishReply {}))
    }
}

type Out = mpsc::Sender<Result<FilePart, Status>>;

async fn send(path: &Path, range: std::ops::Range<u64>, out: &Out) -> Result<(), Status> {
    let fail = |e: std::io::Error| Status::internal(format!("failed to read it: {e}"));
    let mut file = File::open(path).await.map_err(fail)?;
    file.seek(SeekFrom::Start(range.start)).await.map_err(fail)?;
    let mut offset = range.start;
    while offset < range.end {
        let length = (range.end - offset).min(PART_BYTES as u64) as usize;
        let mut bytes = vec![0; length];
        file.read_exact(&mut bytes).await.map_err(fail)?;
        let crc32c = crc32c::crc32c(&bytes);
        let part = FilePart { offset_bytes: offset, bytes, crc32c };
        let sent = tokio::time::timeout(READER_PATIENCE, out.send(Ok(part))).await;
        if !matches!(sent, Ok(Ok(()))) {
            return Ok(());
        }
        offset += length as u64;
    }
    Ok(())
}
