//! Which endpoints count in a level: a server that two probes scrape, or that is scraped under two names, counts once.

use super::scraped::OfLevel;
use super::series::Totals;
use super::stream::Stream;

/// An endpoint in one level, by the probe that saw most of it.
pub(super) struct Chosen<'a> {
    pub(super) stream: &'a Stream,
    pub(super) level: &'a OfLevel,
    /// Others that scraped the same server.
    again: Vec<&'a Stream>,
}

/// Of each stream the first that is of the same server.
pub(super) fn servers(streams: &[Stream]) -> Vec<usize> {
    let mut of: Vec<usize> = Vec::with_capacity(streams.len());
    for (i, stream) in streams.iter().enumerate() {
        let is_mine = |other: &Stream| other.identity == stream.identity || tell_the_same(other, stream);
        let first = streams[..i].iter().position(is_mine);
        of.push(first.map_or(i, |first| of[first]));
    }
    of
}

/// Their totals are the very same at two edges of levels, when the server rests, and grew in between. Only sums of times say
/// so: two servers that share a load evenly may well count the same.
fn tell_the_same(one: &Stream, other: &Stream) -> bool {
    let edges = one.levels.iter().flat_map(OfLevel::edges).zip(other.levels.iter().flat_map(OfLevel::edges));
    let both = edges.filter_map(|(a, b)| a.zip(b));
    let alike: Vec<&Totals> = both.filter(|(a, b)| a.says_the_same(b)).map(|(a, _)| a).collect();
    alike.first().is_some_and(|first| alike.iter().any(|totals| totals.has_grown_since(first)))
}

pub(super) fn choose<'a>(streams: &'a [Stream], servers: &[usize], level: usize) -> Vec<Chosen<'a>> {
    let mut all: Vec<(usize, Chosen<'_>)> = Vec::new();
    for (stream, server) in streams.iter().zip(servers) {
        let of = &stream.levels[level];
        if of.is_empty() {
            continue;
        }
        match all.iter_mut().find(|(other, _)| other == server) {
            Some((_, chosen)) if of.answered() > chosen.level.answered() => {
                chosen.again.push(chosen.stream);
                (chosen.stream, chosen.level) = (stream, of);
            }
            Some((_, chosen)) => chosen.again.push(stream),
            None => all.push((*server, Chosen { stream, level: of, again: Vec::new() })),
        }
    }
    all.into_iter().map(|(_, chosen)| chosen).collect()
}

impl Chosen<'_> {
    /// Who else scraped it, in words.
    pub(super) fn again(&self) -> Vec<String> {
        let Stream { endpoint, probe, identity, .. } = self.stream;
        let of = |is_alias: bool, read: fn(&Stream) -> &str| {
            let mine = self.again.iter().filter(|other| (other.identity != *identity) == is_alias);
            let mut names: Vec<&str> = mine.map(|other| read(other)).collect();
            names.dedup();
            (!names.is_empty()).then(|| names.join(" and "))
        };
        let again = of(false, |other| &other.probe)
            .map(|others| format!("{endpoint} was scraped by {probe} and {others}: {probe} counts"));
        let alias = of(true, |other| &other.endpoint).map(|others| {
            format!("{endpoint} and {others} tell the very same totals, and are taken for one server: {endpoint} counts")
        });
        again.into_iter().chain(alias).collect()
    }
}
