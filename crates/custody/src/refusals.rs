//! How refusals are written down without a bound on how many there are: the first of a kind one by one, the others counted.
//!
//! A kind is one actor, what it tried, the right it lacked, and why it was refused. Once there were [`EACH`] of a kind within
//! [`TIME`], an intent says that more follow, at once; its outcome says how many, when the time is over or the process
//! ends. After a crash the intent stands alone: there were more, and nobody knows how many. What is *permitted* is never
//! counted together: each such call has its own intent.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use keyfold_core::{
    audit::{Action, Actor, Event, Word},
    clock::UnixTime,
};

/// How many of a kind are written one by one within [`TIME`].
const EACH: u64 = 50;
/// How long refusals of a kind are counted together.
const TIME: Duration = Duration::from_secs(60);
/// How many kinds are told apart at once; what is beyond is written one by one.
const KINDS: usize = 10_000;

#[derive(PartialEq, Eq, Hash)]
struct Kind {
    actor: Actor,
    action: Action,
    missing: Option<Word>,
    why: Word,
}

struct Lately {
    since: UnixTime,
    one_by_one: u64,
    /// The intent that said that more follow, and how many did.
    more: Option<(Event, u64)>,
}

impl Lately {
    /// Also where the clock went back.
    fn is_over(&self, now: UnixTime) -> bool {
        now.0.checked_sub(self.since.0).is_none_or(|age| age >= TIME.as_secs())
    }

    fn told(self, now: UnixTime, why: &Word) -> Option<Event> {
        self.more.map(|(intent, count)| {
            let mut outcome = intent.outcome(now, why.clone());
            outcome.count = Some(count);
            outcome
        })
    }
}

/// The refusals of late.
#[derive(Default)]
pub(crate) struct Refusals(Mutex<HashMap<Kind, Lately>>);

impl Refusals {
    fn all<T>(&self, act: impl FnOnce(&mut HashMap<Kind, Lately>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes one more. What has to be written now: itself, `summary` in its place, or nothing.
    pub(crate) fn note(&self, now: UnixTime, event: Event, summary: Event, why: Word) -> Vec<Event> {
        let kind = Kind { actor: event.actor.clone(), action: event.action, missing: event.missing.clone(), why };
        self.all(|all| {
            let mut write = Vec::new();
            if all.get(&kind).is_some_and(|lately| lately.is_over(now)) {
                write.extend(all.remove(&kind).and_then(|lately| lately.told(now, &kind.why)));
            }
            let why = kind.why.clone();
            let mut fresh = Lately { since: now, one_by_one: 0, more: None };
            let lately = match all.len() < KINDS || all.contains_key(&kind) {
                true => all.entry(kind).or_insert(fresh),
                false => &mut fresh,
            };
            let count = event.count.unwrap_or(1);
            match &mut lately.more {
                Some((_, counted)) => *counted += count,
                None if lately.one_by_one < EACH => {
                    lately.one_by_one += 1;
                    let outcome = event.outcome(now, why);
                    write.extend([event, outcome]);
                }
                more @ None => {
                    *more = Some((summary.clone(), count));
                    write.push(summary);
                }
            }
            write
        })
    }

    /// The outcomes of those whose time is over, or of all: how many there were.
    pub(crate) fn over(&self, now: UnixTime, all: bool) -> Vec<Event> {
        let ended: Vec<_> = self.all(|kinds| kinds.extract_if(|_, lately| all || lately.is_over(now)).collect());
        ended.into_iter().filter_map(|(kind, lately)| lately.told(now, &kind.why)).collect()
    }
}

#[cfg(test)]
mod tests {
    use keyfold_core::audit::{EventId, Kind as Half};

    use super::*;

    fn note(refusals: &Refusals, now: u64, actor: &str, why: &str) -> Vec<Event> {
        let event = |id| Event::intent(UnixTime(now), EventId([id; 8]), Actor::new(actor).unwrap(), Action::Refused);
        refusals.note(UnixTime(now), event(1), event(2), Word::new(why).unwrap())
    }

    #[test]
    fn what_is_written_of_refusals_is_bounded_and_their_number_is_not_lost() {
        let refusals = Refusals::default();
        let mut written = Vec::new();
        for n in 0..10_000 {
            written.extend(note(&refusals, 100 + n / 1000, "agent:a", "rule_missing"));
        }
        assert_eq!(written.len(), 2 * 50 + 1);
        assert_eq!(
            (written[100].kind, written[100].id),
            (Half::Intent, EventId([2; 8])),
            "it says at once that more follow"
        );
        assert_eq!(note(&refusals, 109, "agent:b", "rule_missing").len(), 2, "another actor's are its own");
        assert_eq!(note(&refusals, 109, "agent:a", "host_refused").len(), 2, "and so is another reason");
        assert!(refusals.over(UnixTime(159), false).is_empty());
        let over = refusals.over(UnixTime(160), false);
        assert_eq!(over.len(), 1);
        assert_eq!((over[0].kind, over[0].id, over[0].count), (Half::Outcome, EventId([2; 8]), Some(10_000 - 50)));
        assert_eq!(over[0].result.as_ref().unwrap().as_str(), "rule_missing");
        assert_eq!(note(&refusals, 161, "agent:a", "rule_missing").len(), 2, "then they are written one by one again");
    }

    #[test]
    fn a_refusal_after_the_time_says_first_how_many_there_were() {
        let refusals = Refusals::default();
        for _ in 0..60 {
            note(&refusals, 100, "agent:a", "forbidden");
        }
        let next = note(&refusals, 500, "agent:a", "forbidden");
        assert_eq!(next.iter().map(|event| event.count).collect::<Vec<_>>(), [Some(10), None, None]);
        for _ in 0..60 {
            note(&refusals, 500, "agent:a", "forbidden");
        }
        let earlier = note(&refusals, 400, "agent:a", "forbidden");
        assert_eq!(earlier.len(), 3, "a clock that goes back loses none");
        for _ in 0..60 {
            note(&refusals, 400, "agent:a", "forbidden");
        }
        let all = refusals.over(UnixTime(400), true);
        assert_eq!(all.iter().map(|event| event.count).collect::<Vec<_>>(), [Some(11)]);
        assert!(refusals.over(UnixTime(400), true).is_empty());
    }
}
