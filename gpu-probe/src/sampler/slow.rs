//! The thread that may be late: every slow signal at its own rate, the one that is due first.

use tailcliff_proto::clock::HostClock;

use super::pace::{Paced, SLOW_SHARE, Slowed, share_out};
use super::{Common, HostReader, Part, nanos};
use crate::nvml::deep::{Deep, Group};
use crate::nvml::{Cards, Found};
use crate::rates::Rates;

#[derive(Clone, Copy, Debug)]
enum Task {
    Cards(Group),
    Host,
}

pub(super) fn run(
    cards: Option<&Cards>,
    mut host: Option<HostReader>,
    rates: Rates,
    part: &Part,
    common: &Common,
) {
    let mut found = Found::default();
    let mut deep = cards.map(|cards| Deep::new(cards, &mut found));
    let mut tasks = tasks(cards.is_some(), host.is_some(), rates);
    while !common.ends() {
        let Some(next) = tasks.iter_mut().min_by_key(|task| task.due_ns) else { return };
        common.sleep_until(next.due_ns);
        if common.ends() {
            break;
        }
        if !common.is_on() {
            next.skip(HostClock.monotonic());
            continue;
        }
        let began = HostClock.now();
        match next.what {
            Task::Cards(group) => deep.iter_mut().for_each(|deep| deep.read(group, &mut found)),
            Task::Host => host.iter_mut().for_each(|read| read(&mut found)),
        }
        let now = HostClock.monotonic();
        let missed = next.done(HostClock.now() - began, now);
        share_out(&mut tasks, now);
        let slowed = tasks.iter_mut().filter_map(|task| Some(words(task.what, task.news()?)));
        found.troubles.extend(slowed);
        common.leave(&mut found, part);
        common.switch.slow.count(missed);
    }
    // What came into the buffers and onto the counter since the last time: it will not be there later.
    if let Some(deep) = deep.as_mut().filter(|_| common.is_on()) {
        let last = [Group::Energy, Group::PowerSamples, Group::UtilSamples, Group::Gpm, Group::Xids];
        last.into_iter().for_each(|group| deep.read(group, &mut found));
        common.leave(&mut found, part);
    }
}

fn tasks(has_cards: bool, has_host: bool, rates: Rates) -> Vec<Paced<Task>> {
    let groups = [
        (Group::Energy, rates.energy),
        (Group::PowerSamples, rates.power_samples),
        (Group::UtilSamples, rates.util_samples),
        (Group::Gpm, rates.gpm),
        (Group::Levels, rates.levels),
        (Group::Xids, rates.xids),
        (Group::Lost, rates.lost),
    ];
    let now = HostClock.monotonic();
    let of_cards = groups.iter().filter(|_| has_cards);
    let of_cards = of_cards.map(|&(group, every)| Paced::new(Task::Cards(group), nanos(every), now));
    let of_host = has_host.then(|| Paced::new(Task::Host, nanos(rates.host), now));
    of_cards.chain(of_host).collect()
}

fn words(task: Task, slowed: Slowed) -> String {
    let what = match task {
        Task::Cards(group) => group.name(),
        Task::Host => "the host",
    };
    let ms = |ns: i64| ns as f64 / 1e6;
    let (cost, interval, usual) = (ms(slowed.cost_ns), ms(slowed.interval_ns), ms(slowed.usual_ns));
    let share = SLOW_SHARE * 100.0;
    format!(
        "reading {what} takes {cost:.1} ms: it is read each {interval:.0} ms, not each {usual:.0} ms, as all that is slow \
         may take {share:.0} % of a core"
    )
}
