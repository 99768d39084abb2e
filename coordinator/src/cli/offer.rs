//! Results from coordinator to person: handing them out after a run, and `tailcliff fetch`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::Utc;
use tailcliff_proto::v1::Listing;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Conclusion, EXIT_FETCH, EXIT_INTERRUPTED, EXIT_OUTPUT, EXIT_USAGE, fail, interrupts, print, tell,
};
use crate::args::results::{FetchArgs, ServeArgs};
use crate::door::{Door, Strangers};
use crate::drive::{Listeners, Outcome, RunError};
use crate::results::Shelf;
use crate::results::fetch::{Fetch, FetchError};
use crate::run::Ending;
use crate::service;

/// For the last answer to reach whoever fetched.
const FAREWELL: Duration = Duration::from_millis(200);
/// A table longer than this is no table for a person, and an answer has its limit.
const LONGEST_TABLE: usize = 1 << 20;

/// How the line begins that says so.
pub(crate) const WAITING: &str = "results wait";

/// A port and a shelf that outlive the run.
pub(super) struct Offer {
    shelf: Shelf,
    port: std::net::TcpListener,
    door: Door,
    patience: Duration,
}

impl Offer {
    /// Listeners with results on them, when the person asked for that.
    pub(super) fn of(
        args: Option<&ServeArgs>,
        listeners: Listeners,
        door: &Door,
        stop: mpsc::Sender<String>,
    ) -> Result<(Listeners, Option<Self>), RunError> {
        let Some(patience) = args.and_then(|args| args.serve_results) else {
            return Ok((listeners, None));
        };
        let shelf = Shelf::new(stop);
        let (listeners, port) = listeners.with_shelf(shelf.clone())?;
        let patience = Duration::from_nanos(patience.0.unsigned_abs());
        Ok((listeners, Some(Self { shelf, port, door: door.clone(), patience })))
    }

    /// Said before the table: whoever follows from afar is given that with the files.
    pub(super) fn announce(&self) {
        tell(&format!("{WAITING} for `tailcliff fetch` for {:?}", self.patience));
    }

    /// Hands out what there is, until somebody has it, the time is over, or a signal comes.
    pub(super) async fn until_fetched(self, outcome: Option<Outcome>, told: &Conclusion) {
        let interrupted = outcome.as_ref().is_some_and(|o| matches!(o.ending, Ending::Interrupted(_)));
        if interrupted && !self.shelf.was_stopped() {
            // Whoever sent a signal wants us gone.
            return;
        }
        let listing = Listing {
            exit_code: told.code,
            words: told.words.clone().unwrap_or_default(),
            table: told.table.iter().flat_map(|table| table.chars()).take(LONGEST_TABLE / 4).collect(),
            ..Listing::default()
        };
        self.shelf.offer(outcome.and_then(|outcome| outcome.dir), listing);
        // Nobody takes what nodes say: one that dials now is told that the run is over.
        let (inputs, _) = mpsc::channel(1);
        let Ok(port) = tokio::net::TcpListener::from_std(self.port) else { return };
        // Whoever is turned away now has nobody to be told of.
        let strangers = Strangers::new(mpsc::channel(1).0);
        let (_, mut interrupts) = interrupts();
        tokio::select! {
            _ = service::serve(port, &self.door, strangers, inputs, Some(self.shelf.clone())) => {}
            () = async { self.shelf.fetched().await; tokio::time::sleep(FAREWELL).await } => tell("results were fetched"),
            () = tokio::time::sleep(self.patience) => tell("nobody fetched the results in time; they stay here"),
            _ = interrupts.recv() => {}
        }
    }
}

/// Exits as the coordinator does, once all is here.
pub(super) async fn fetch(args: &FetchArgs) -> i32 {
    let dir = args.output_dir.clone().unwrap_or_else(default_dir);
    let route = match args.link.route(args.coordinator.clone()) {
        Ok(route) => route,
        Err(error) => return fail(&error.to_string(), EXIT_USAGE),
    };
    let fetch = Fetch {
        route,
        dir: dir.clone(),
        patience: Duration::from_nanos(args.wait.0.unsigned_abs()),
        most_bytes: u64::from(args.max_mib) << 20,
        with_journal: !args.no_journal,
    };
    let shutdown = CancellationToken::new();
    let (_, mut interrupts) = interrupts();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if interrupts.recv().await.is_some() {
            stop.cancel();
        }
    });
    match fetch.all(&shutdown, &tell).await {
        Ok(listing) => retell(&listing, &dir),
        Err(error) => fail(&error.to_string(), code_of(&error)),
    }
}

fn default_dir() -> PathBuf {
    Path::new("runs").join(Utc::now().format("fetched-%Y%m%dT%H%M%SZ").to_string())
}

/// Says what the coordinator said, with the place of the files here.
pub(crate) fn retell(listing: &Listing, dir: &Path) -> i32 {
    let table = listing.table.rsplit_once("\nfiles: ").map_or(listing.table.as_str(), |(table, _)| table);
    let table: String = table.chars().filter(|&c| c == '\n' || !c.is_control()).collect();
    if !listing.files.is_empty() {
        print(&format!("{table}\nfiles: {}", dir.display()));
    }
    if listing.words.is_empty() {
        return listing.exit_code;
    }
    let words: String = listing.words.chars().filter(|c| !c.is_control()).collect();
    fail(&words, listing.exit_code)
}

pub(crate) fn code_of(error: &FetchError) -> i32 {
    match error {
        FetchError::Stopped => EXIT_INTERRUPTED,
        FetchError::Write { .. } => EXIT_OUTPUT,
        _ => EXIT_FETCH,
    }
}
