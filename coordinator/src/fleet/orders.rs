//! What the run orders, carried out: to nodes, to the journal, to the display.

use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1::{self, coordinator_message::Kind as Order};
use tokio::sync::oneshot;

use super::{Fleet, label};
use crate::journal::{Entry, Fact, JournalError, LevelPlanned, LevelShare};
use crate::load;
use crate::merge::searched;
use crate::run::{Command, Ending};
use crate::service::message;
use crate::stored::Incarnation;

impl Fleet {
    pub(super) fn send(&mut self, of: Incarnation, order: Order) {
        let Some(peer) = self.peers.get_mut(&of) else { return };
        // A full channel is a node that does not read: its silence will be noticed as such.
        if let Some((_, out)) = &peer.connection {
            let _full = out.try_send(Ok(message(order)));
        }
    }

    fn send_part(&mut self, of: Incarnation, number: u32) {
        let part = self.corpus.as_ref().and_then(|corpus| corpus.parts.get(number as usize)).cloned();
        part.into_iter().for_each(|part| self.send(of, Order::Corpus(part)));
    }

    pub(super) fn obey(&mut self, command: Command) -> Result<Option<Ending>, JournalError> {
        match command {
            Command::Send(of, order) => self.send(of, order),
            Command::SendPart(of, number) => self.send_part(of, number),
            Command::Burst(of, pings) => self.pinger.burst(of, pings),
            Command::LevelPlanned { drive, load, shares } => {
                self.display.level(drive, load, &shares, HostClock.now());
                self.planned = Some((drive, load, shares));
            }
            Command::Start { level, at_ref_ns, agents } => self.start(level, at_ref_ns, &agents)?,
            Command::LevelSettled { level, passed } => {
                self.keep_last_words()?;
                if passed {
                    self.append(0, Fact::Passed(level))?;
                }
                self.display.settled(level, HostClock.now());
            }
            Command::Judge(level) => self.judge(level)?,
            Command::Void(level, reason) => self.void(level, reason)?,
            Command::Mark(level, reason) => {
                self.display.say(&format!("this level goes on with those who are left: {reason}"));
                self.append(0, Fact::Marked(v1::StopReleasing { level, reason }))?;
            }
            Command::TurnAway(of, why) => {
                self.display.say(&format!("{} is sent off: {}", self.name(of), label(&why)));
                self.append(of, Fact::Lost(HostClock.now()))?;
                self.lost.extend(self.peers.remove(&of).map(|peer| (of, peer)));
            }
            Command::Lost(of) => {
                self.display.say(&format!("{} is lost: its place is free", self.name(of)));
                self.append(of, Fact::Lost(HostClock.now()))?;
                self.lost.extend(self.peers.remove(&of).map(|peer| (of, peer)));
            }
            Command::Say(line) => self.display.say(&label(&line)),
            Command::Finish(ending) => {
                self.keep_last_words()?;
                return Ok(Some(ending));
            }
        }
        Ok(None)
    }

    fn start(&mut self, level: u32, at_ref_ns: i64, agents: &[Incarnation]) -> Result<(), JournalError> {
        // Ordered again for one that may have missed it: the level itself is known.
        if let Some((drive, load, shares)) = self.planned.take() {
            self.append(0, Fact::Level(LevelPlanned::new(drive, load, at_ref_ns)))?;
            self.display.started(at_ref_ns);
            self.started.push(level);
            for (of, share) in shares {
                self.append(of, Fact::Share(LevelShare { level, share: Some(share) }))?;
            }
            if let Some(reason) = self.voided.remove(&level) {
                self.void(level, reason)?;
            }
        }
        for &of in agents {
            let there = self.peers.get(&of).and_then(|peer| peer.online.to_node(at_ref_ns));
            // Without a clock there is no common start: 0 is long past, so the agent starts at once and says it was late.
            let (at_raw_ns, bound_ns) = there.unwrap_or((0, i64::MAX));
            let doubt = self.beats.doubt(of, &self.name(of), bound_ns);
            doubt.into_iter().for_each(|line| self.display.say(&line));
            let sent_ref_ns = Some(HostClock.now());
            let order = v1::StartAt { level, at_raw_ns, at_ref_ns, bound_ns, sent_ref_ns };
            self.send(of, Order::Start(order));
        }
        Ok(())
    }

    /// Reads the level back once all that was said of it is on disk.
    fn judge(&mut self, level: u32) -> Result<(), JournalError> {
        let (fired, on_disk) = oneshot::channel();
        self.journal.append(Entry { incarnation: 0, fact: None }, Some(fired))?;
        let Some((dir, judged)) = self.judged.clone() else { return Ok(()) };
        tokio::spawn(async move {
            if on_disk.await.is_err() {
                return;
            }
            let seen = tokio::task::spawn_blocking(move || {
                let data = load::open(&dir).map_err(|e| e.to_string())?;
                let seen = searched::seen_of(&data, level).ok_or("the journal does not know it")?;
                data.trouble().map_or(Ok(seen), |trouble| Err(trouble.to_string()))
            });
            let seen = seen.await.unwrap_or_else(|e| Err(e.to_string()));
            let _over = judged.send(seen);
        });
        Ok(())
    }

    fn void(&mut self, level: u32, reason: String) -> Result<(), JournalError> {
        self.display.say(&format!("this level does not count: {reason}"));
        if !self.started.contains(&level) {
            self.voided.entry(level).or_insert(reason);
            return Ok(());
        }
        self.append(0, Fact::Voided(v1::StopReleasing { level, reason }))
    }
}
