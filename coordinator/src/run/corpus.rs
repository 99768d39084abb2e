//! The dataset on its way to the agents: a few parts at a time, the next when one was acknowledged.

use tailcliff_proto::v1::{self, NodeKind};

use super::{Command, Member, Phase, Run};
use crate::stored::{Drive, Incarnation};

/// Parts on their way to one agent: enough that the wire does not rest, few enough that a heartbeat does not wait long.
const WINDOW: u32 = 4;
/// Parts on their way to all agents together: each is up to 256 KiB of memory here.
const ALL_WINDOWS: u32 = 128;
/// How long no part may get through to any agent. Loading a tokenizer is part of the last.
const PATIENCE_NS: i64 = 60_000_000_000;

/// What there is to send.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    pub(super) id: u64,
    pub(super) parts: u32,
}

/// How far one agent is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    sent: u32,
    held: u32,
}

impl Run {
    /// The run tells its agents this corpus, of so many parts, before anything else.
    #[must_use]
    pub fn with_corpus(mut self, id: u64, parts: u32) -> Self {
        self.corpus = Some(Wanted { id, parts });
        self
    }

    /// This agent can be asked for load.
    pub(super) fn has_corpus(&self, of: Incarnation) -> bool {
        let held = self.members.get(&of).map_or(0, |member| member.corpus.held);
        self.corpus.is_none_or(|wanted| held >= wanted.parts)
    }

    /// Sends an agent what it lacks, again from what it acknowledged: what was under way is lost with a connection.
    pub(super) fn send_corpus(&mut self, of: Incarnation, out: &mut Vec<Command>) {
        if let Some(member) = self.members.get_mut(&of) {
            member.corpus.sent = member.corpus.held;
        }
        self.fill_windows(out);
    }

    /// Sends parts to whoever has few on the way, as long as there are few on the way to all.
    pub(super) fn fill_windows(&mut self, out: &mut Vec<Command>) {
        let Some(wanted) = self.corpus else { return };
        let is_told = |m: &Member| m.kind == NodeKind::Agent && m.connected;
        let on_the_way = |m: &Member| m.corpus.sent.saturating_sub(m.corpus.held);
        let under_way: u32 = self.members.values().filter(|m| is_told(m)).map(on_the_way).sum();
        let mut room = ALL_WINDOWS.saturating_sub(under_way);
        for (&of, member) in self.members.iter_mut().filter(|(_, m)| is_told(m)) {
            let corpus = &mut member.corpus;
            let most = corpus.held.saturating_add(WINDOW).min(wanted.parts);
            let to = most.min(corpus.sent.saturating_add(room)).max(corpus.sent);
            out.extend((corpus.sent..to).map(|number| Command::SendPart(of, number)));
            room -= to - corpus.sent;
            corpus.sent = to;
        }
    }

    pub(super) fn corpus_held(
        &mut self,
        now: i64,
        of: Incarnation,
        said: &v1::CorpusHeld,
        out: &mut Vec<Command>,
    ) {
        let Some(wanted) = self.corpus.filter(|wanted| wanted.id == said.corpus_id) else { return };
        if !said.error.is_empty() {
            let text = format!("{} cannot use the dataset: {}", self.name(of), said.error);
            return self.unfit(now, of, text, out);
        }
        let had = self.has_corpus(of);
        let Some(member) = self.members.get_mut(&of) else { return };
        if said.held > member.corpus.held {
            // An agent that claims more than there is, or than it was sent, is not believed.
            member.corpus.held = said.held.min(wanted.parts).min(member.corpus.sent);
            if matches!(self.phase, Phase::Corpus) {
                self.since = now;
            }
        }
        self.fill_windows(out);
        let is_late = matches!(self.phase, Phase::Preflight) && !had && self.has_corpus(of);
        if is_late {
            out.push(self.preflight(of));
        }
    }

    /// Over when every agent holds all of it.
    pub(super) fn await_corpus(&mut self, now: i64, waited: i64, out: &mut Vec<Command>) -> bool {
        let agents = self.agents();
        if agents.iter().all(|&of| self.has_corpus(of)) {
            self.enter(now, Phase::Preflight);
            let asked = agents.into_iter().filter(|of| !self.members.get(of).is_some_and(|m| m.preflight));
            out.extend(asked.map(|of| self.preflight(of)));
            return true;
        }
        if waited > PATIENCE_NS {
            let late = agents.into_iter().filter(|&of| !self.has_corpus(of)).collect();
            self.all_unfit(now, late, "the dataset did not get through to an agent in time", out);
            return true;
        }
        false
    }

    /// The workload of a level: where in the corpus it begins, and by how many streams it is drawn from.
    pub(super) fn workload_of(&self, drive: Drive) -> v1::Workload {
        let mut workload = self.workload.clone();
        if let Some(pick) = &mut workload.pick {
            pick.streams = self.load_of(drive.rung).and_then(|load| load.concurrency()).unwrap_or(1);
            // Levels begin apart, so that one does not ask again what the one before it did, as far as entries go: nor does
            // a second try, whose prompts the server's prefix cache would otherwise know.
            let entries = self.plan.file().map_or(0, |file| file.entries);
            let apart = self.plan.num_prompts.unwrap_or(entries / self.rungs_expected());
            pick.first = if pick.sequential { 0 } else { u64::from(drive.level).saturating_mul(apart) };
        }
        if let Some(cell) = self.plan.cell(drive.rung) {
            workload.max_tokens = cell.output_len.unwrap_or(workload.max_tokens);
            if let Some(chars) = cell.prompt_chars {
                (workload.input_chars, workload.input_words) = (chars, 0);
            }
        }
        workload
    }

    /// The server, with the timeout of a level.
    pub(super) fn target_of(&self, drive: Drive) -> v1::Target {
        let timeout_ns = self.plan.cell(drive.rung).and_then(|cell| cell.request_timeout_ns);
        let request_timeout_ns = timeout_ns.unwrap_or(self.target.request_timeout_ns);
        v1::Target { request_timeout_ns, ..self.target.clone() }
    }

    /// Agents that can be asked for load.
    pub(super) fn ready_agents(&self) -> Vec<Incarnation> {
        self.agents().into_iter().filter(|&of| self.has_corpus(of)).collect()
    }

    /// A node that joined, or came back, may lack the corpus once it is being told.
    pub(super) fn owes_corpus(&self, kind: NodeKind) -> bool {
        // One that joins while a level runs is told before the next: it would disturb what is measured.
        let told = matches!(self.phase, Phase::Corpus | Phase::Preflight);
        told && kind == NodeKind::Agent && self.corpus.is_some()
    }
}
