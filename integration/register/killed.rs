//! A supervisor that is killed over a registration or its removal, at moments that are drawn.

use super::*;

/// What came of an order over which the supervisor was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    Answered,
    Unanswered,
}

struct Rows<'a> {
    case: &'a Case,
    draw: fastrand::Rng,
    /// How long an order takes that nobody is killed over.
    takes: Duration,
}

impl Rows<'_> {
    /// Gives an order, kills the supervisor at a moment that is drawn, and waits until what is kept is decided: registered, or not.
    fn killed_over(&mut self, method: &Method, path: &str, body: &Value, id: &str) -> (Came, bool) {
        let supervisor = self.case.role("supervisor");
        let (socket, body) = (self.case.socket(), serde_json::to_vec(body).unwrap());
        let after = self.takes.mul_f64(self.draw.f64() * 1.2);
        let answer = std::thread::scope(|scope| {
            let (method, socket) = (method.clone(), &socket);
            let asked = scope.spawn(move || Door::tell_whoever_is_there(socket, method, path, body));
            support::pause(after);
            supervisor.signal(Signal::KILL);
            asked.join().unwrap()
        });
        if let Some(answer) = &answer {
            assert!(matches!(answer.status, 200 | 201), "{method} {path}: {answer:?}");
        }
        answers(self.case, supervisor.pid);
        let registered = wait_until("it is registered, or not any more", || {
            let kept = kept(self.case).into_iter().find(|kept| kept["id"] == id);
            let leaving = kept.as_ref().is_some_and(|kept| kept["leaving"] == true);
            (!leaving).then_some(kept.is_some())
        });
        (if answer.is_some() { Came::Answered } else { Came::Unanswered }, registered)
    }

    /// Waits until `id` is what it is to be: one live run, or nothing at all.
    fn settled(&self, id: &str, registered: bool) {
        let lives = || {
            let marked = self.case.processes();
            marked
                .iter()
                .filter(|process| process.contains("hold-lock") && process.contains(&format!("lock-{id}")))
                .count()
        };
        wait_until(&format!("{id} is settled, registered: {registered}"), || {
            let told = Door::ask_whoever_is_there(&self.case.socket(), &format!("/v1/workers/{id}"))?;
            let as_told = if registered { told.body["detail"] == "ready" } else { told.status == 404 };
            (as_told && lives() == usize::from(registered)).then_some(())
        });
    }

    fn round(&mut self, id: &str) -> [Came; 2] {
        let (lock, told) = (self.case.file(&format!("lock-{id}")), self.case.file(&format!("told-{id}")));
        let unit = json!({"command": [misbehave(), "hold-lock", lock, told], "restart": {"policy": "never"}});
        let (body, path) = (json!({"id": id, "unit": unit}), format!("/v1/workers/{id}"));
        let (made, registered) = self.killed_over(&Method::POST, "/v1/workers", &body, id);
        assert!(registered || made == Came::Unanswered, "what was answered is kept");
        self.settled(id, registered);
        if !registered {
            assert_eq!(post(self.case, &body).status, 201);
        }
        let (gone, registered) = self.killed_over(&Method::DELETE, &path, &json!({}), id);
        assert!(!registered || gone == Came::Unanswered, "what was answered is done");
        self.settled(id, registered);
        if registered {
            assert_eq!(delete(self.case, &path).status, 200);
            self.settled(id, false);
        }
        let second: Vec<String> = self.case.told(&format!("told-{id}"));
        assert!(second.iter().all(|line| line.starts_with("begin ")), "never two lives at once: {second:?}");
        [made, gone]
    }
}

#[test]
fn a_supervisor_that_is_killed_over_it_leaves_a_worker_that_is_there_or_is_not() {
    const BESIDE: usize = 4;
    let kills: usize = parameter("PINFOLD_REGISTER_KILLS").unwrap_or(40);
    let seed: u64 = parameter("PINFOLD_REGISTER_SEED").unwrap_or_else(|| fastrand::u64(..));
    eprintln!("PINFOLD_REGISTER_SEED={seed}");
    // A supervisor is not followed by another more than once a second: several of them at once.
    let row = |nth: usize| {
        let case = Case::new();
        let up = begin(&case);
        let db = main_of(&case, "db");
        let began = clock::monotonic();
        assert_eq!(post(&case, &sleeper("first")).status, 201);
        assert_eq!(delete(&case, "/v1/workers/first").status, 200);
        let takes = clock::monotonic().since(began) / 2;
        let draw = fastrand::Rng::with_seed(seed.wrapping_add(nth as u64));
        let mut rows = Rows { case: &case, draw, takes };
        let rounds = kills.div_ceil(2 * BESIDE);
        let came: Vec<Came> = (0..rounds).flat_map(|round| rows.round(&format!("w{round}"))).collect();
        assert!(db.alive(), "whoever is not concerned has not noticed");
        assert_eq!(kept(&case), [] as [Value; 0]);
        end(up);
        came
    };
    let came: Vec<Came> = std::thread::scope(|scope| {
        let rows: Vec<_> = (0..BESIDE).map(|nth| scope.spawn(move || row(nth))).collect();
        rows.into_iter().flat_map(|row| row.join().unwrap()).collect()
    });
    let unanswered = came.iter().filter(|came| **came == Came::Unanswered).count();
    eprintln!("{} kills, {unanswered} of them before the answer", came.len());
    assert!(unanswered > 0, "not one of {} kills was in time", came.len());
}
