//! Runs many tasks on one thread, one step at a time, in an order that a seed decides.
//!
//! Which task goes next is drawn from those that can go on, whatever woke them and in which order. So nothing
//! but the seed decides it. A task may be held back for many steps, as one whose thread gets no processor.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::future::BoxFuture;
use headwater_engine::engine::Executor;
use parking_lot::Mutex;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How often a task is held back, and for how many steps at most.
const HELD_BACK: f64 = 0.03;
const HELD_BACK_STEPS_MAX: u64 = 150;

/// A number for all tasks that end together.
pub type Process = u32;

/// Tasks that were started since the last step.
type Arrived = Arc<Mutex<Vec<(Process, BoxFuture<'static, ()>)>>>;

pub struct Scheduler {
    random: ChaCha8Rng,
    arrived: Arrived,
    tasks: Vec<Task>,
    steps: u64,
    /// Stands for all that has happened.
    trace: u64,
}

struct Task {
    process: Process,
    number: u64,
    future: BoxFuture<'static, ()>,
    ready: Arc<Ready>,
    held_back_until: u64,
}

struct Ready(AtomicBool);

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Scheduler {
    pub fn new(seed: u64) -> Self {
        Self {
            random: ChaCha8Rng::seed_from_u64(seed),
            arrived: Arrived::default(),
            tasks: Vec::new(),
            steps: 0,
            trace: 0,
        }
    }

    /// Where the tasks of a process are started.
    pub fn executor(&self, process: Process) -> Executor {
        let arrived = Arc::clone(&self.arrived);
        Arc::new(move |future| arrived.lock().push((process, future)))
    }

    pub fn spawn(&self, process: Process, future: impl Future<Output = ()> + Send + 'static) {
        self.arrived.lock().push((process, Box::pin(future)));
    }

    /// Drops all tasks of a process, wherever they are.
    pub fn kill(&mut self, process: Process) {
        self.arrived.lock().retain(|(of, _)| *of != process);
        self.tasks.retain(|task| task.process != process);
    }

    /// One step of one task; false if none can go on.
    pub fn step(&mut self) -> bool {
        self.admit();
        let can_go_on = |task: &&Task| task.ready.0.load(Ordering::Relaxed);
        let waiting = self.tasks.iter().filter(can_go_on).map(|task| task.held_back_until);
        let Some(first) = waiting.min() else { return false };
        let until = first.max(self.steps);
        let places = self.tasks.iter().enumerate();
        let places = places.filter(|(_, task)| can_go_on(task) && task.held_back_until <= until);
        let places: Vec<usize> = places.map(|(place, _)| place).collect();
        let place = places[self.random.random_range(0..places.len())];
        let held_back = self.random.random_bool(HELD_BACK);
        let pause = self.random.random_range(1..HELD_BACK_STEPS_MAX);
        self.steps += 1;
        let task = &mut self.tasks[place];
        if held_back {
            task.held_back_until = self.steps + pause;
        }
        task.ready.0.store(false, Ordering::Relaxed);
        self.trace = self.trace.wrapping_mul(0x0100_0000_01b3) ^ task.number;
        let waker = Waker::from(Arc::clone(&task.ready));
        if task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            self.tasks.remove(place);
        }
        true
    }

    /// Goes on until no task can; the number of steps.
    pub fn rest(&mut self, steps_max: u64) -> u64 {
        let before = self.steps;
        while self.step() {
            assert!(self.steps - before < steps_max, "it never comes to rest");
        }
        self.steps - before
    }

    /// Equal for two runs that did the same.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    fn admit(&mut self) {
        for (process, future) in self.arrived.lock().drain(..) {
            self.trace = self.trace.wrapping_add(1);
            self.tasks.push(Task {
                process,
                number: self.trace,
                future,
                ready: Arc::new(Ready(AtomicBool::new(true))),
                held_back_until: 0,
            });
        }
    }
}

/// Polls a future that never has to wait for anything.
pub fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits for something"),
    }
}
