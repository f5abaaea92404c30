// SPDX-License-Identifier: Apache-2.0
//! Tests of rehearsals in real child processes: this test executable, started again as [`child_entry`].

use std::sync::Arc;

use diolkos_backend::{Backend, Format, Operation, RunError, Work};
use diolkos_types::{DataType, Dim, Shape, Signature, TensorSpec};

use super::*;

const CHILD_ENV: &str = "DIOLKOS_TEST_REHEARSAL_CHILD";

/// Does what the model's text says.
struct Nasty;

struct Fine(Signature, bool);

impl Backend for Nasty {
    fn name(&self) -> &'static str {
        "nasty"
    }

    fn formats(&self) -> &[Format] {
        &[Format { extension: "nasty", platform: "nasty" }]
    }

    fn load(&self, files: &ModelFiles, options: &LoadOptions) -> Result<Arc<dyn Operation>, LoadError> {
        let text = String::from_utf8_lossy(files.entry_contents()?).into_owned();
        match text.trim() {
            "memory" => {
                let mut hoard = Vec::new();
                loop {
                    hoard.push(vec![1u8; 1 << 20]);
                    std::hint::black_box(&hoard);
                }
            }
            "cpu" => loop {
                std::hint::black_box(0);
            },
            "time" => loop {
                std::thread::park();
            },
            "panic" => panic!("oh no"),
            "abort" => std::process::abort(),
            "exit" => std::process::exit(3),
            "chatty" => println!("{}", "x".repeat(1 << 20)),
            "stack" => assert!(deeper(1) > 0),
            "file" => {
                let error = std::fs::write("/tmp/diolkos-rehearsal-must-not-write", "x").unwrap_err();
                return Err(LoadError::Invalid { reason: error.to_string() });
            }
            "invalid" => return Err(LoadError::Invalid { reason: "it says so\nitself".into() }),
            "missing" => return Err(LoadError::MissingFile { name: "w.bin".into() }),
            _ => {}
        }
        let dims = [Dim::Variable { max: options.variable_dim_max }];
        let signature = Signature {
            inputs: [TensorSpec::new("x", DataType::Fp32, &dims)].into(),
            outputs: [TensorSpec::new("y", DataType::Fp32, &dims)].into(),
        };
        Ok(Arc::new(Fine(signature, text.contains("unrunnable"))))
    }
}

#[expect(unconditional_recursion, reason = "that is the point")]
fn deeper(depth: u64) -> u64 {
    let room = std::hint::black_box([depth; 64]);
    deeper(depth + 1) + room[3]
}

impl Operation for Fine {
    fn signature(&self) -> &Signature {
        &self.0
    }

    fn resident_bytes(&self) -> u64 {
        77
    }

    fn peak_bytes(&self, _shapes: &[Option<Shape>], _input_bytes: u64) -> Option<u64> {
        Some(4)
    }

    fn run(&self, work: &mut Work) -> Result<(), RunError> {
        if self.1 {
            return Err(RunError::Failed { backend: "nasty", reason: "not today".into() });
        }
        let input = work.take_input(0).expect("it is not optional");
        work.output(&self.0, 0, input.data_type, input.shape, input.data.len())?.give(input.data);
        Ok(())
    }
}

/// Not a test by itself: the other tests start this executable again with only this one, and look at its end.
#[test]
fn child_entry() {
    if std::env::var_os(CHILD_ENV).is_some() {
        let code = child_main(&[Arc::new(Nasty)]);
        std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
    }
}

fn rehearser(limits: RehearsalLimits) -> ProcessRehearser {
    let name = module_path!().split_once("::").unwrap().1;
    ProcessRehearser {
        program: std::env::current_exe().unwrap(),
        args: [&format!("{name}::child_entry"), "--exact", "--nocapture", "--test-threads=1"]
            .map(Into::into)
            .into(),
        env: vec![(CHILD_ENV.into(), "1".into())],
        limits,
    }
}

fn rehearse_as(
    backend: &'static str,
    text: &str,
    limits: RehearsalLimits,
) -> Result<Verdict, RehearsalError> {
    let files = ModelFiles::single("m.nasty", text.as_bytes().to_vec());
    let options = LoadOptions { variable_dim_max: 9, resident_bytes_max: 1 << 20 };
    rehearser(limits).rehearse(&Rehearsal { backend, files: &files, options: &options })
}

fn rehearse(text: &str) -> Result<Verdict, RehearsalError> {
    let limits = RehearsalLimits { memory_max: 256 << 20, ..RehearsalLimits::default() };
    rehearse_as("nasty", text, limits)
}

#[test]
fn a_good_model_is_measured() {
    for text in ["fine", "chatty"] {
        // A megabyte of chatter fills what is kept, so nothing is left of the verdict.
        let outcome = rehearse(text);
        if text == "chatty" {
            assert!(matches!(outcome, Err(RehearsalError::NoVerdict { code: 0, .. })), "{outcome:?}");
            continue;
        }
        let verdict = outcome.unwrap();
        assert_eq!(verdict.signature, "x FP32[-1] -> y FP32[-1]");
        assert_eq!(verdict.resident_bytes, 77);
        assert!(
            verdict.peak_bytes > 0 && verdict.load_ns > 0 && verdict.first_ns > 0 && verdict.median_ns > 0
        );
        assert_eq!(verdict.note, None);
    }
    let verdict = rehearse("unrunnable").unwrap();
    assert_eq!(
        verdict.note.as_deref(),
        Some("the warm-up on zeros failed: the nasty backend failed: not today")
    );
}

#[test]
fn each_way_to_fail_has_its_name() {
    let table = [
        ("invalid", "not a valid model: it says so\nitself"),
        ("missing", "the model refers to the file `w.bin`, which is not beside it"),
        ("panic", "the model makes the nasty backend panic, so it is not loaded: oh no"),
        ("abort", "the model makes the nasty backend crash with signal 6, so it is not loaded"),
        ("stack", "the model makes the nasty backend overflow its stack, so it is not loaded"),
        (
            "memory",
            "the rehearsal ended when it needed more than 268435456 bytes of memory: raise models.rehearsal_memory_max, or use a smaller model",
        ),
        ("file", "the model makes the nasty backend crash with signal 25, so it is not loaded"),
    ];
    for (text, expected) in table {
        let error = rehearse(text).expect_err(text).to_string();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
    let _ = std::fs::remove_file("/tmp/diolkos-rehearsal-must-not-write");
    assert!(matches!(rehearse("exit"), Err(RehearsalError::NoVerdict { code: 3, .. })));
    assert!(matches!(
        rehearse_as("other", "fine", RehearsalLimits::default()),
        Err(RehearsalError::UnknownBackend { backend: "other" })
    ));
}

#[test]
fn files_alone_can_be_too_much_memory() {
    let limits = RehearsalLimits { memory_max: 64 << 20, ..RehearsalLimits::default() };
    let error = rehearse_as("nasty", &" ".repeat(80 << 20), limits).unwrap_err();
    assert!(matches!(error, RehearsalError::Memory { .. }), "{error}");
}

#[test]
fn cpu_time_is_limited() {
    let limits = RehearsalLimits { cpu_max: Duration::from_millis(900), ..RehearsalLimits::default() };
    let error = rehearse_as("nasty", "cpu", limits).unwrap_err();
    assert!(matches!(error, RehearsalError::Cpu { .. }), "{error}");
}

#[test]
fn time_is_limited_and_the_child_is_gone() {
    let limits = RehearsalLimits { time_max: Duration::from_millis(200), ..RehearsalLimits::default() };
    let began = std::time::Instant::now();
    let error = rehearse_as("nasty", "time", limits).unwrap_err();
    assert!(matches!(error, RehearsalError::Time { .. }), "{error}");
    assert!(began.elapsed() >= limits.time_max);
}

#[test]
fn no_executable_is_an_error() {
    let mut missing = rehearser(RehearsalLimits::default());
    missing.program = "/nonexistent/diolkos".into();
    let files = ModelFiles::single("m", "x");
    let options = LoadOptions { variable_dim_max: 1, resident_bytes_max: 1 };
    let error =
        missing.rehearse(&Rehearsal { backend: "nasty", files: &files, options: &options }).unwrap_err();
    assert!(matches!(error, RehearsalError::Io { action: "start its process", .. }), "{error}");
}

#[test]
fn verdicts_are_remembered_up_to_a_bound() {
    let mut cache = VerdictCache::default();
    let digest = |i: usize| crate::store::manifest::digest_of(&i.to_le_bytes());
    for i in 0..=VERDICTS_MAX {
        cache.insert(digest(i), Verdict::default());
        cache.insert(digest(i), Verdict { load_ns: 1, ..Verdict::default() });
    }
    assert_eq!(cache.get(&digest(0)), None);
    assert_eq!(cache.get(&digest(VERDICTS_MAX)).map(|verdict| verdict.load_ns), Some(1));
    assert_eq!(cache.order.len(), VERDICTS_MAX);
}
