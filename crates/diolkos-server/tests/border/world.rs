// SPDX-License-Identifier: Apache-2.0
//! A daemon with two tenants that have nothing to do with each other, and what the one has.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diolkos_backend::null::NullBackend;
use diolkos_engine::store::NoRehearsal;
use diolkos_server::{Builtin, Daemon, Deps, Settings, TokenHash, new_token};

use crate::certificates::{Ca, Signed, ca, sign, write_server_certificate};
use crate::users;

/// What everything of the victim is called, the tenant included.
pub(crate) const SECRET: &str = "secret";
/// What nobody has.
pub(crate) const NOBODY: &str = "nobody";

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Victim,
    Hostile,
}

impl Who {
    pub(crate) fn tenant(self) -> &'static str {
        match self {
            Who::Victim => SECRET,
            Who::Hostile => "hostile",
        }
    }

    /// A user of the system that is this tenant's, where there are such.
    pub(crate) fn uid(self) -> u32 {
        match self {
            Who::Victim => 41_001,
            Who::Hostile => 41_002,
        }
    }
}

/// Something for each of the two.
pub(crate) struct Each<T> {
    victim: T,
    hostile: T,
}

impl<T> Each<T> {
    fn new(make: impl Fn(Who) -> T) -> Each<T> {
        Each { victim: make(Who::Victim), hostile: make(Who::Hostile) }
    }

    pub(crate) fn of(&self, who: Who) -> &T {
        match who {
            Who::Victim => &self.victim,
            Who::Hostile => &self.hostile,
        }
    }
}

pub(crate) struct World {
    pub(crate) daemon: Daemon,
    dir: tempfile::TempDir,
    memory: tempfile::TempDir,
    pub(crate) ca: Ca,
    pub(crate) tokens: Each<String>,
    pub(crate) certificates: Each<Signed>,
    /// Whether this process may act as two users of the system.
    pub(crate) has_users: bool,
}

/// `may_load`: whether both may load what their leases name.
pub(crate) async fn world(may_load: bool) -> World {
    world_with(may_load, "").await
}

/// With `more` settings.
pub(crate) async fn world_with(may_load: bool, more: &str) -> World {
    let dir = tempfile::tempdir().unwrap();
    let memory = tempfile::tempdir_in("/dev/shm").expect("tests need a tmpfs at /dev/shm");
    open_to_everybody(dir.path(), 0o755);
    open_to_everybody(memory.path(), 0o1777);
    let ca = ca();
    write_server_certificate(dir.path(), &ca);
    std::fs::write(dir.path().join("ca.pem"), ca.pem()).unwrap();
    let version = dir.path().join("models").join(SECRET).join("1");
    std::fs::create_dir_all(&version).unwrap();
    std::fs::write(version.join("model.null"), "input x UINT8 [-1]\noutput y UINT8 [-1]\n").unwrap();
    let tokens = Each::new(|_| new_token().unwrap());
    let certificates = Each::new(|who| sign(&ca, &[&format!("dns:{}", who.tenant())], |_| {}));
    let file = dir.path().join("d.toml");
    std::fs::write(&file, format!("{more}\n{}", settings(dir.path(), memory.path(), may_load, &tokens)))
        .unwrap();
    let deps = Deps {
        backends: vec![Arc::new(NullBackend)],
        builtins: builtins(),
        rehearser: Box::new(NoRehearsal),
        read_settings: None,
    };
    let daemon = Daemon::start(Settings::load(&file).unwrap(), deps).await.unwrap();
    daemon.wait_ready().await;
    World { daemon, dir, memory, ca, tokens, certificates, has_users: users::available() }
}

fn open_to_everybody(dir: &Path, mode: u32) {
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn settings(dir: &Path, memory: &Path, may_load: bool, tokens: &Each<String>) -> String {
    let at = dir.display();
    let vsock = if users::vsock_available() { "\"vsock:any:0\"," } else { "" };
    let tenant = |who: Who, cid: u32, models: &str| {
        let (name, uid) = (who.tenant(), who.uid());
        let token = TokenHash::of(tokens.of(who));
        format!(
            "[tenants.{name}]\nload = {may_load}\ntokens = [\"{token}\"]\ncertificates = [\"dns:{name}\"]\nuids = [{uid}]\ncids = [{cid}]\n\
             leases.{name} = {{ kind = \"compute\", operations = [\"echo\"], models = [\"{models}\"] }}\n"
        )
    };
    format!(
        "listen = [\n\
         {{ address = \"unix:{at}/secret.sock\", tenant = \"secret\" }},\n\
         {{ address = \"unix:{at}/hostile.sock\", tenant = \"hostile\" }},\n\
         {{ address = \"unix:{at}/bridge.sock\", tenant = \"bridge\" }},\n\
         {{ address = \"unix:{at}/users.sock\", mode = \"0666\" }},\n{vsock}\n\
         \"tcp:127.0.0.1:0\",\n\
         {{ address = \"tcp:127.0.0.1:0\", tls = {{ certificate = \"server.pem\", key = \"server.key\", client_ca = \"ca.pem\" }} }}]\n\
         shared_memory.directory = {memory:?}\nmodels.repositories = [\"models\"]\nmodels.client_load = true\nmodels.store_dir = \"sent\"\n\
         [tenants.bridge]\nacts_for = [\"secret\", \"hostile\"]\n{}{}",
        tenant(Who::Victim, 2, "secret"),
        tenant(Who::Hostile, 1, "own*")
    )
}

fn builtins() -> Vec<Builtin> {
    diolkos_builtin::operations()
        .into_iter()
        .map(|built_in| Builtin {
            name: built_in.name.into(),
            summary: built_in.summary.into(),
            operation: built_in.operation,
        })
        .collect()
}

impl World {
    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A path in the directory of shared memory.
    pub(crate) fn memory(&self, name: &str) -> PathBuf {
        self.memory.path().join(name)
    }
}
