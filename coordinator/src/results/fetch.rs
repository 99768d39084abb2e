//! Fetching the outputs of a run from the coordinator that offers them: waits for the run's end, goes on after a broken
//! connection where it stopped, and leaves no file under its own name that is not whole.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tailcliff_proto::clock::HostClock;
use tailcliff_proto::link::{self, Link, LinkError, MAX_MESSAGE_BYTES, Route};
use tailcliff_proto::v1::results_client::ResultsClient;
use tailcliff_proto::v1::{self, Listing, ResultFile};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::names;
use crate::journal;

/// Between two questions whether the run is over.
const LOOK: Duration = Duration::from_secs(1);
/// An answer later than this is a broken connection.
const ANSWER: Duration = Duration::from_secs(20);
/// Connections in a row that brought nothing new.
const FRUITLESS: u32 = 5;

/// What to fetch, and from where.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// The way to the coordinator.
    pub route: Route,
    /// Where the files go; made when missing.
    pub dir: PathBuf,
    /// Longest wait for the run's end, or for a coordinator that does not answer.
    pub patience: Duration,
    /// Of all files together, at most.
    pub most_bytes: u64,
    /// The journal too, from which `tailcliff merge` writes the outputs anew.
    pub with_journal: bool,
}

/// Why there are no results here.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody answers.
    #[error(
        "failed to reach the coordinator at {address}: {why}; is it still there? --serve-results keeps it"
    )]
    Unreachable {
        /// As asked.
        address: String,
        /// What happened last.
        why: String,
    },
    /// It answers, and is no coordinator that hands out results.
    #[error("failed to fetch: the coordinator does not offer results ({0}); start it with --serve-results")]
    NotOffered(String),
    /// It takes secured connections alone.
    #[error(
        "failed to fetch: the coordinator asks for TLS: give --tls-dir with files of the coordinator's CA, such as a node's"
    )]
    NeedsTls,
    /// It does not know us.
    #[error("failed to fetch: the coordinator does not let us in: {0}")]
    Unknown(String),
    /// The run went on for longer than we wait.
    #[error("failed to fetch: the run is still going on after {0:?}; raise --wait")]
    StillRunning(Duration),
    /// What it offers is not what a run has.
    #[error("failed to fetch: {0}")]
    Refused(String),
    /// No place for the files.
    #[error("failed to write {path}: {source}; name another --output-dir")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
    /// We were told to stop.
    #[error("interrupted before all was fetched")]
    Stopped,
}

impl FetchError {
    /// Asking again brings the same.
    fn lasts(&self) -> bool {
        matches!(self, Self::Stopped | Self::NotOffered(_) | Self::NeedsTls | Self::Unknown(_))
    }
}

impl Fetch {
    /// Waits for the run's end and fetches its files; what the run came to. The coordinator is then told that it may go.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn all(
        &self,
        shutdown: &CancellationToken,
        tell: &(dyn Fn(&str) + Sync),
    ) -> Result<Listing, FetchError> {
        let listing = self.wait_for_end(shutdown, tell).await?;
        names::check(&listing.files, self.most_bytes).map_err(FetchError::Refused)?;
        let wanted: Vec<_> = listing.files.iter().filter(|file| self.wants(file)).collect();
        if !wanted.is_empty() {
            make_dir(&self.dir, &wanted)?;
        }
        for file in wanted {
            self.file(file, shutdown).await?;
        }
        // All is here; a coordinator that does not hear it leaves when its time is over.
        let _later = self.finish(shutdown).await;
        Ok(listing)
    }

    fn wants(&self, file: &ResultFile) -> bool {
        self.with_journal || file.name != journal::FILE_NAME
    }

    /// Asks until the run is over.
    ///
    /// # Errors
    /// When that is not so in time, or nobody answers.
    pub async fn wait_for_end(
        &self,
        shutdown: &CancellationToken,
        tell: &(dyn Fn(&str) + Sync),
    ) -> Result<Listing, FetchError> {
        let deadline = HostClock.now().saturating_add(nanos(self.patience));
        let (mut last, mut told) = (None, false);
        while HostClock.now() < deadline {
            match self.list(shutdown, deadline).await {
                Ok(listing) if listing.over => return Ok(listing),
                Ok(_) if !told => {
                    tell("the run is still going on; waiting for its end");
                    (last, told) = (None, true);
                }
                Ok(_) => last = None,
                Err(error) if error.lasts() => return Err(error),
                Err(error) => last = Some(error),
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = shutdown.cancelled() => return Err(FetchError::Stopped),
            }
        }
        Err(last.unwrap_or(FetchError::StillRunning(self.patience)))
    }

    async fn list(&self, shutdown: &CancellationToken, deadline: i64) -> Result<Listing, FetchError> {
        let left = Duration::from_nanos((deadline - HostClock.now()).max(0).unsigned_abs());
        let mut client = self.client(shutdown, left.min(ANSWER)).await?;
        let answer = tokio::time::timeout(ANSWER, client.list(v1::ListRequest {})).await;
        match answer {
            Ok(Ok(listing)) => Ok(listing.into_inner()),
            Ok(Err(status)) => Err(self.of(&status)),
            Err(_) => Err(self.unreachable("no answer")),
        }
    }

    /// Tells the coordinator to end its run and keep what was measured.
    ///
    /// # Errors
    /// When it cannot be reached or does not take that.
    pub async fn stop(&self, shutdown: &CancellationToken) -> Result<(), FetchError> {
        let mut client = self.client(shutdown, ANSWER).await?;
        let answer = tokio::time::timeout(ANSWER, client.stop(v1::StopRequest {})).await;
        answer.map_err(|_| self.unreachable("no answer"))?.map_err(|status| self.of(&status))?;
        Ok(())
    }

    async fn finish(&self, shutdown: &CancellationToken) -> Result<(), FetchError> {
        let mut client = self.client(shutdown, ANSWER).await?;
        let answer = tokio::time::timeout(ANSWER, client.finish(v1::FinishRequest {})).await;
        answer.map_err(|_| self.unreachable("no answer"))?.map_err(|status| self.of(&status))?;
        Ok(())
    }

    async fn client(
        &self,
        shutdown: &CancellationToken,
        patience: Duration,
    ) -> Result<ResultsClient<Link>, FetchError> {
        let told = Mutex::new(String::from("nobody answers there"));
        let tell = |line: &str| line.clone_into(&mut told.lock().unwrap_or_else(PoisonError::into_inner));
        let dialled = tokio::time::timeout(patience, link::dial_telling(&self.route, shutdown, tell)).await;
        let channel = match dialled {
            Ok(Ok(channel)) => channel,
            Ok(Err(LinkError::Stopped)) => return Err(FetchError::Stopped),
            Ok(Err(error)) => return Err(self.unreachable(error.to_string())),
            Err(_) => {
                return Err(self.unreachable(told.into_inner().unwrap_or_else(PoisonError::into_inner)));
            }
        };
        Ok(ResultsClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES))
    }

    fn unreachable(&self, why: impl Into<String>) -> FetchError {
        FetchError::Unreachable { address: self.route.address().to_owned(), why: why.into() }
    }

    fn of(&self, status: &tonic::Status) -> FetchError {
        let words = format!("{:?}: {}", status.code(), status.message());
        match status.code() {
            // As links read it: how HTTP/2 says that a connection is not secure enough.
            Code::PermissionDenied => FetchError::NeedsTls,
            Code::Unauthenticated => FetchError::Unknown(status.message().to_owned()),
            Code::Unimplemented | Code::NotFound => FetchError::NotOffered(words),
            _ => self.unreachable(words),
        }
    }

    /// One file, over as many connections as it takes while each brings something.
    async fn file(&self, file: &ResultFile, shutdown: &CancellationToken) -> Result<(), FetchError> {
        let (path, partial) = (self.dir.join(&file.name), self.dir.join(format!("{}.partial", file.name)));
        let fail = |source| FetchError::Write { path: path.clone(), source };
        let mut into = Landing { out: create(&partial).map_err(fail)?, offset: 0, size: file.size_bytes };
        let mut fruitless = 0;
        while into.offset < into.size {
            let before = into.offset;
            match self.parts(file, &mut into, shutdown).await {
                Ok(()) => {}
                Err(Broken::Link(error)) if fruitless + 1 >= FRUITLESS => return Err(error),
                Err(Broken::Link(FetchError::Stopped)) => return Err(FetchError::Stopped),
                Err(Broken::Link(_)) => tokio::time::sleep(LOOK.mul_f64(0.5)).await,
                Err(Broken::Write(source)) => return Err(fail(source)),
            }
            fruitless = if into.offset > before { 0 } else { fruitless + 1 };
            if fruitless >= FRUITLESS {
                return Err(self.unreachable(format!("{} ends before its end", file.name)));
            }
        }
        into.out.sync_all().and_then(|()| fs::rename(&partial, &path)).map_err(fail)
    }

    async fn parts(
        &self,
        file: &ResultFile,
        into: &mut Landing,
        shutdown: &CancellationToken,
    ) -> Result<(), Broken> {
        let mut client = self.client(shutdown, ANSWER).await.map_err(Broken::Link)?;
        let asked = v1::FetchRequest { name: file.name.clone(), offset_bytes: into.offset };
        let answer = tokio::time::timeout(ANSWER, client.fetch(asked)).await;
        let answer = answer.map_err(|_| Broken::Link(self.unreachable("no answer")))?;
        let mut parts = answer.map_err(|status| Broken::Link(self.of(&status)))?.into_inner();
        loop {
            let part = tokio::select! {
                part = tokio::time::timeout(ANSWER, parts.message()) => part,
                () = shutdown.cancelled() => return Err(Broken::Link(FetchError::Stopped)),
            };
            match part {
                Ok(Ok(Some(part))) => into.take(&part, self)?,
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(status)) => return Err(Broken::Link(self.of(&status))),
                Err(_) => return Err(Broken::Link(self.unreachable("it fell silent"))),
            }
        }
    }
}

enum Broken {
    Link(FetchError),
    Write(std::io::Error),
}

/// A file as far as it has come.
struct Landing {
    out: File,
    offset: u64,
    size: u64,
}

impl Landing {
    fn take(&mut self, part: &v1::FilePart, of: &Fetch) -> Result<(), Broken> {
        let end = self.offset.saturating_add(part.bytes.len() as u64);
        let sound = part.offset_bytes == self.offset && end <= self.size && !part.bytes.is_empty();
        if !sound || crc32c::crc32c(&part.bytes) != part.crc32c {
            return Err(Broken::Link(of.unreachable("a part came damaged")));
        }
        self.out.write_all(&part.bytes).map_err(Broken::Write)?;
        self.offset = end;
        Ok(())
    }
}

fn create(partial: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).open(partial)
}

/// A directory that holds another run is left alone.
fn make_dir(dir: &Path, wanted: &[&ResultFile]) -> Result<(), FetchError> {
    let fail = |path: PathBuf| move |source| FetchError::Write { path, source };
    fs::create_dir_all(dir).map_err(fail(dir.to_owned()))?;
    match wanted.iter().map(|file| dir.join(&file.name)).find(|path| path.exists()) {
        Some(path) => Err(fail(path)(std::io::Error::other("it is there already"))),
        None => Ok(()),
    }
}

fn nanos(of: Duration) -> i64 {
    i64::try_from(of.as_nanos()).unwrap_or(i64::MAX / 2)
}
