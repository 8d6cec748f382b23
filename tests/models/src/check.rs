//! Explores a model: checks the claims in all its states, and from each state whether the system can still come to rest.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    fmt::Display,
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use stateright::{Checker, Expectation, HasDiscoveries, Model};

/// A model that comes to rest when no more faults happen.
///
/// stateright's `eventually` considers only paths without cycles, so parts that retry forever would pass. Therefore every state
/// is checked: do steps of progress alone lead from it to rest?
pub trait Rests: Model {
    /// The action is neither a fault nor a choice made from outside.
    fn is_progress(&self, state: &Self::State, action: &Self::Action) -> bool;

    fn is_at_rest(&self, state: &Self::State) -> bool;
}

/// The result of an exploration.
#[derive(Debug)]
pub struct Exploration {
    pub states: usize,
    /// Number of steps to the farthest state.
    pub depth: usize,
    pub took: Duration,
    /// A claim that does not hold, and the steps to a state that violates it.
    pub violated: Option<Violation>,
    /// Situations that should be possible but never happened.
    pub never: Vec<&'static str>,
}

#[derive(Debug)]
pub struct Violation {
    pub claim: &'static str,
    pub steps: Vec<String>,
}

pub const COMES_TO_REST: &str = "without further faults, everything comes to rest with nothing lost and nothing held";

/// Explores all states, and stops at the first violation of `claim`, or of any claim if it is `None`.
pub fn states<M>(model: M, claim: Option<&'static str>, threads: usize) -> Exploration
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + std::fmt::Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + std::fmt::Debug + PartialEq + Display + Send + Sync + 'static,
{
    let began = Instant::now();
    let finish = match claim {
        Some(claim) => HasDiscoveries::AnyOf(BTreeSet::from([claim])),
        None => HasDiscoveries::AnyFailures,
    };
    let properties = model.properties();
    let checker = model.checker().threads(threads).finish_when(finish).spawn_bfs().join();
    let mut discoveries = checker.discoveries();
    let never = properties
        .iter()
        .filter(|property| property.expectation == Expectation::Sometimes && !discoveries.contains_key(property.name))
        .map(|property| property.name)
        .collect();
    let violated = properties
        .iter()
        .filter(|property| property.expectation == Expectation::Always)
        .filter(|property| claim.is_none_or(|claim| claim == property.name))
        .find_map(|property| {
            let path = discoveries.remove(property.name)?;
            let steps = path.into_actions().iter().map(ToString::to_string).collect();
            Some(Violation {
                claim: property.name,
                steps,
            })
        });
    Exploration {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        took: began.elapsed(),
        violated,
        never,
    }
}

/// Checks that progress leads to rest from every state. Runs in memory: about 100 bytes per state.
pub fn rest<M>(model: &M) -> Exploration
where
    M: Rests,
    M::State: Hash,
    M::Action: Clone + Display,
{
    let began = Instant::now();
    let graph = Graph::of(model);
    let stuck = graph.stuck();
    Exploration {
        states: graph.parents.len(),
        depth: 0,
        took: began.elapsed(),
        violated: stuck.map(|state| Violation {
            claim: COMES_TO_REST,
            steps: graph.steps_to(model, state),
        }),
        never: Vec::new(),
    }
}

/// All states, numbered in the order in which they were found.
struct Graph {
    numbers: HashMap<u64, u32>,
    /// The state from which each state was found first. An initial state has its own number.
    parents: Vec<u32>,
    at_rest: Vec<bool>,
    /// Steps of progress, from one state to another.
    progress: Vec<(u32, u32)>,
}

impl Graph {
    fn of<M>(model: &M) -> Self
    where
        M: Rests,
        M::State: Hash,
        M::Action: Clone,
    {
        let mut graph = Self {
            numbers: HashMap::new(),
            parents: Vec::new(),
            at_rest: Vec::new(),
            progress: Vec::new(),
        };
        let mut queue = VecDeque::new();
        for state in model.init_states() {
            graph.add(model, &state, None);
            queue.push_back(state);
        }
        let (mut from, mut actions) = (0, Vec::new());
        while let Some(state) = queue.pop_front() {
            model.actions(&state, &mut actions);
            for action in actions.drain(..) {
                let is_progress = model.is_progress(&state, &action);
                let Some(next) = model.next_state(&state, action) else {
                    continue;
                };
                let (to, is_new) = graph.add(model, &next, Some(from));
                if is_progress {
                    graph.progress.push((from, to));
                }
                if is_new {
                    queue.push_back(next);
                }
            }
            from += 1;
        }
        graph
    }

    fn add<M>(&mut self, model: &M, state: &M::State, parent: Option<u32>) -> (u32, bool)
    where
        M: Rests,
        M::State: Hash,
    {
        let number = self.parents.len() as u32;
        let known = *self.numbers.entry(fingerprint(state)).or_insert(number);
        if known == number {
            self.parents.push(parent.unwrap_or(number));
            self.at_rest.push(model.is_at_rest(state));
        }
        (known, known == number)
    }

    /// The first state from which no progress leads to rest.
    fn stuck(&self) -> Option<u32> {
        let mut before = vec![Vec::new(); self.parents.len()];
        for (from, to) in &self.progress {
            before[*to as usize].push(*from);
        }
        let mut rests = self.at_rest.clone();
        let mut queue: Vec<u32> = (0..).zip(&rests).filter(|(_, rests)| **rests).map(|(n, _)| n).collect();
        while let Some(state) = queue.pop() {
            for from in &before[state as usize] {
                if !std::mem::replace(&mut rests[*from as usize], true) {
                    queue.push(*from);
                }
            }
        }
        rests.iter().position(|rests| !rests).map(|state| state as u32)
    }

    fn steps_to<M>(&self, model: &M, state: u32) -> Vec<String>
    where
        M: Rests,
        M::State: Hash,
        M::Action: Clone + Display,
    {
        let mut path = vec![state];
        while let Some(last) = path
            .last()
            .copied()
            .filter(|last| self.parents[*last as usize] != *last)
        {
            path.push(self.parents[last as usize]);
        }
        let number = |state: &M::State| self.numbers.get(&fingerprint(state)).copied();
        let beginning = |first: u32| {
            model
                .init_states()
                .into_iter()
                .find(|state| number(state) == Some(first))
        };
        let Some(mut now) = path.pop().and_then(beginning) else {
            return Vec::new();
        };
        let mut steps = Vec::new();
        while let Some(next) = path.pop() {
            let mut actions = Vec::new();
            model.actions(&now, &mut actions);
            let taken = actions.into_iter().find_map(|action| {
                let state = model.next_state(&now, action.clone())?;
                (number(&state) == Some(next)).then_some((action, state))
            });
            let Some((action, state)) = taken else { break };
            steps.push(action.to_string());
            now = state;
        }
        steps
    }
}

fn fingerprint(state: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}
