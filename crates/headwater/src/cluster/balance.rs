//! Who is to do what: the same number for everyone, give or take one, with as little changing hands as possible.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::cluster::Process;
use crate::cluster::roles::Role;

/// Work that one process does at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// The owner in the log.
    pub owner: Arc<str>,
    /// Who can do it.
    pub role: Role,
}

/// For each owner the id of the process that does its work.
pub type Owners = BTreeMap<Arc<str>, Arc<str>>;

/// Gives out what nobody does, and takes from who has more than one above another. Among the tasks of one stage, those that a
/// process has least of go there. Work that nobody can do is left out.
pub fn balance(units: &[Unit], processes: &[Process], before: &Owners) -> Owners {
    let mut owners = Owners::new();
    for role in [Role::Gateway, Role::Processor, Role::Sinks] {
        let of_role: Vec<_> = units.iter().filter(|unit| unit.role == role).collect();
        let mut able: Vec<_> = processes.iter().filter(|process| process.roles.has(role)).collect();
        // In an order of their own, so that work stays where it is when one joins.
        able.sort_by_key(|process| (process.started, process.id.clone()));
        if able.is_empty() {
            continue;
        }
        let mut loads: Vec<Load> = able.iter().map(|process| Load::new(&process.id)).collect();
        let mut unassigned = Vec::new();
        for unit in of_role {
            let former = before.get(&unit.owner);
            match loads.iter_mut().find(|load| former == Some(&load.process)) {
                Some(load) => load.add(unit),
                None => unassigned.push(unit),
            }
        }
        for unit in unassigned {
            if let Some(load) = loads
                .iter_mut()
                .min_by_key(|load| (load.of_stage(unit), load.units.len()))
            {
                load.add(unit);
            }
        }
        while level(&mut loads) {}
        for load in loads {
            owners.extend(load.units.iter().map(|unit| (unit.owner.clone(), load.process.clone())));
        }
    }
    owners
}

/// Takes one unit from whoever has most to whoever has least; false if that would make nothing better.
fn level(loads: &mut [Load<'_>]) -> bool {
    let count = |load: &(usize, &Load<'_>)| load.1.units.len();
    let Some((most, _)) = loads.iter().enumerate().max_by_key(count) else {
        return false;
    };
    let Some((least, _)) = loads.iter().enumerate().min_by_key(count) else {
        return false;
    };
    if loads[most].units.len() <= loads[least].units.len() + 1 {
        return false;
    }
    let (from, to) = (&loads[most], &loads[least]);
    let gain = |unit: &&Unit| from.of_stage(unit).saturating_sub(to.of_stage(unit));
    let best = from.units.iter().enumerate().max_by_key(|(_, unit)| gain(unit));
    let Some((place, _)) = best else { return false };
    let unit = loads[most].remove(place);
    loads[least].add(unit);
    true
}

/// What a process has.
struct Load<'a> {
    process: Arc<str>,
    units: Vec<&'a Unit>,
    by_stage: HashMap<&'a str, usize>,
}

impl<'a> Load<'a> {
    fn new(process: &Arc<str>) -> Self {
        Self {
            process: process.clone(),
            units: Vec::new(),
            by_stage: HashMap::new(),
        }
    }

    fn add(&mut self, unit: &'a Unit) {
        *self.by_stage.entry(stage(unit)).or_default() += 1;
        self.units.push(unit);
    }

    fn remove(&mut self, place: usize) -> &'a Unit {
        let unit = self.units.swap_remove(place);
        if let Some(count) = self.by_stage.get_mut(stage(unit)) {
            *count -= 1;
        }
        unit
    }

    fn of_stage(&self, unit: &Unit) -> usize {
        self.by_stage.get(stage(unit)).copied().unwrap_or(0)
    }
}

/// Tasks are called after their stage, with the partition at the end.
fn stage(unit: &Unit) -> &str {
    unit.owner.rsplit_once('.').map_or(&*unit.owner, |(stage, _)| stage)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::roles::Roles;

    fn process(number: usize, roles: &str) -> Process {
        Process {
            id: format!("p{number}").into(),
            started: number as i64,
            roles: Roles::parse(roles).unwrap(),
            http: None,
            version: String::new(),
        }
    }

    fn tasks(stages: usize, partitions: usize) -> Vec<Unit> {
        let task = |stage, partition| Unit {
            owner: format!("view-1.{stage}.{partition}").into(),
            role: Role::Processor,
        };
        let stages = 0..stages;
        stages
            .flat_map(|stage| (0..partitions).map(move |partition| task(stage, partition)))
            .collect()
    }

    #[test]
    fn each_stage_is_spread_out() {
        let processes = [process(0, "processor"), process(1, "processor")];
        let owners = balance(&tasks(2, 4), &processes, &Owners::new());
        for stage in 0..2 {
            let here = |partition: &usize| *owners[&*format!("view-1.{stage}.{partition}")] == *"p0";
            assert_eq!((0..4).filter(here).count(), 2, "{owners:?}");
        }
    }

    #[test]
    fn work_goes_to_who_can_do_it() {
        let sink = Unit {
            owner: "sink/s-1".into(),
            role: Role::Sinks,
        };
        let units = [tasks(1, 1), vec![sink]].concat();
        let processes = [
            process(0, "gateway"),
            process(1, "processor"),
            process(2, "sinks,query"),
        ];
        let owners = balance(&units, &processes, &Owners::new());
        assert_eq!(*owners["view-1.0.0"], *"p1");
        assert_eq!(*owners["sink/s-1"], *"p2");
        assert_eq!(balance(&units, &processes[..1], &owners), Owners::new());
    }

    proptest! {
        /// Whoever comes and goes: everything is given out, evenly, and no more changes hands than has to.
        #[test]
        fn balanced_with_few_moves(stages in 1usize..4, partitions in 1usize..9, members in prop::collection::vec(prop::collection::vec(any::<bool>(), 5), 1..8)) {
            let units = tasks(stages, partitions);
            let mut before = Owners::new();
            for present in members {
                let processes: Vec<_> = (0..5).filter(|&number| present[number]).map(|number| process(number, "processor")).collect();
                let owners = balance(&units, &processes, &before);
                if processes.is_empty() {
                    prop_assert!(owners.is_empty());
                    continue;
                }
                prop_assert_eq!(owners.len(), units.len());
                let count = |process: &Process| owners.values().filter(|owner| **owner == process.id).count();
                let (least, most) = (processes.iter().map(count).min().unwrap(), processes.iter().map(count).max().unwrap());
                prop_assert!(most - least <= 1);
                let is_there = |id: &Arc<str>| processes.iter().any(|process| process.id == *id);
                let moved = owners.iter().filter(|(owner, process)| before.get(*owner).is_some_and(|former| former != *process && is_there(former))).count();
                let newcomers = processes.iter().filter(|process| !before.values().any(|former| *former == process.id)).count();
                prop_assert!(moved <= newcomers * most, "{} moved for {} newcomers", moved, newcomers);
                before = owners;
            }
        }
    }
}
