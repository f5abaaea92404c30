// SPDX-License-Identifier: Apache-2.0
//! Every call of REST.

use crate::doors::{Claims, Door};
use crate::http::{Answer, Http};
use crate::users::as_user;
use crate::world::{NOBODY, SECRET, Who, World, world};

pub(crate) const REGION_BYTES: usize = 8;

struct Call {
    method: &'static str,
    path: String,
    body: String,
}

/// Every call that is about something with a name, about this one; `job` is the number of one of its jobs.
fn calls(name: &str, job: u64) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut call = |method, path: String, body: &str| calls.push(Call { method, path, body: body.into() });
    let x = r#"{"inputs":[{"name":"x","shape":[2],"datatype":"UINT8","data":[1,2]}]}"#;
    for version in ["", "/versions/1", "/versions/9", "/versions/x"] {
        let model = format!("/v2/models/{name}{version}");
        for suffix in ["", "/ready", "/config", "/stats"] {
            call("GET", format!("{model}{suffix}"), "");
        }
        for body in [x, r#"{"inputs":[]}"#, "{}", "not JSON"] {
            call("POST", format!("{model}/infer"), body);
        }
        call("GET", format!("/v2/diolkos/models/{name}{version}"), "");
    }
    let repository = format!("/v2/repository/models/{name}");
    let file = r#"{"parameters":{"config":"{\"backend\":\"null\"}","file:1/model.null":"aW5wdXQgeCBVSU5UOCBbLTFd"}}"#;
    for body in ["", "{}", r#"{"parameters":{"config":"{}"}}"#, file] {
        call("POST", format!("{repository}/load"), body);
    }
    for body in ["", r#"{"parameters":{"unload_dependents":true}}"#] {
        call("POST", format!("{repository}/unload"), body);
    }
    for memory in ["system", "cuda"] {
        let region = format!("/v2/{memory}sharedmemory/region/{name}");
        call("GET", format!("{region}/status"), "");
        for key in
            [name.to_owned(), format!("../{name}"), format!("/dev/shm/{name}"), "/proc/self/fd/3".into()]
        {
            call(
                "POST",
                format!("{region}/register"),
                &format!(r#"{{"key":"{key}","offset":0,"byte_size":8}}"#),
            );
        }
        call("POST", format!("{region}/unregister"), "");
    }
    for place in ["inputs", "outputs"] {
        call("POST", "/v2/models/echo/infer".into(), &through_region(name, place == "outputs"));
    }
    call("GET", format!("/v2/diolkos/jobs/{job}"), "");
    call("GET", format!("/v2/diolkos/jobs?tenant={name}"), "");
    for path in [format!("/v2/diolkos/tenants/{name}"), format!("/v2/diolkos/tenants/{name}/leases/{name}")] {
        for method in ["GET", "POST", "PUT", "DELETE"] {
            call(method, path.clone(), if method == "GET" { "" } else { "{}" });
        }
    }
    // Other spellings of a name, and ways to somewhere else.
    for tricky in [
        "../NAME",
        "%2e%2e%2fNAME",
        "NAME%2f1%2fmodel.null",
        "NAME%00",
        "./NAME",
        "own%2f..%2fNAME",
        "own/../NAME",
    ] {
        let tricky = tricky.replace("NAME", name);
        call("GET", format!("/v2/models/{tricky}"), "");
        call("POST", format!("/v2/models/{tricky}/infer"), x);
        call("POST", format!("/v2/repository/models/{tricky}/load"), file);
        call("GET", format!("/v2/systemsharedmemory/region/{tricky}/status"), "");
    }
    calls
}

/// `echo` of what lies in a region, or of something into it.
fn through_region(region: &str, out: bool) -> String {
    let place = format!(
        r#""parameters":{{"shared_memory_region":"{region}","shared_memory_byte_size":{REGION_BYTES}}}"#
    );
    if out {
        format!(
            r#"{{"inputs":[{{"name":"data","shape":[2],"datatype":"UINT8","data":[1,2]}}],"outputs":[{{"name":"data",{place}}}]}}"#
        )
    } else {
        format!(r#"{{"inputs":[{{"name":"data","shape":[{REGION_BYTES}],"datatype":"UINT8",{place}}}]}}"#)
    }
}

/// The victim at a door, and what it has there.
pub(crate) struct Victim {
    http: Http,
    /// Whether it has a region called `secret`, too.
    has_region: bool,
    job: Option<u64>,
}

impl Victim {
    pub(crate) async fn settle(door: Door, world: &World) -> Victim {
        let mut http = Http::connect(door, world, Who::Victim).await;
        infers(&mut http).await;
        let key = write_memory(door, world);
        let body = format!(r#"{{"key":"{key}","offset":0,"byte_size":{REGION_BYTES}}}"#);
        let registered = http.ask("POST", "/v2/systemsharedmemory/region/secret/register", &body).await;
        let has_region = registered.status == 200;
        if !has_region {
            assert_eq!(registered.status, 403, "{door:?}: {registered:?}");
            assert_eq!(door, Door::Machine, "only there is no user known");
        }
        let jobs = http.get("/v2/diolkos/jobs").await.body;
        let jobs: serde_json::Value = serde_json::from_str(&jobs).unwrap();
        let job = jobs["jobs"][0]["job"].as_u64();
        Victim { http, has_region, job }
    }

    /// What it sees of what it has.
    pub(crate) async fn sees(&mut self) -> Vec<Answer> {
        let mut seen = Vec::new();
        for path in [
            "/v2/models/secret",
            "/v2/models/secret/stats",
            "/v2/models/echo/stats",
            "/v2/diolkos/models/secret",
            "/v2/systemsharedmemory/status",
            "/v2/diolkos/jobs",
        ] {
            seen.push(self.http.get(path).await);
        }
        seen.push(self.http.ask("POST", "/v2/repository/index", "").await);
        // When it was is reckoned anew for each answer, and may be a millisecond off.
        for answer in &mut seen {
            answer.body = without_digits_behind(&answer.body, "\"last_inference\":");
        }
        seen
    }

    /// Everything that it has still works; it takes it along as it goes.
    pub(crate) async fn uses_and_leaves(mut self) {
        infers(&mut self.http).await;
        if self.has_region {
            let read = self.http.ask("POST", "/v2/models/echo/infer", &through_region(SECRET, false)).await;
            assert!(read.status == 200 && read.body.contains("[115,101,99,114,101,116,33,33]"), "{read:?}");
            self.http.ask("POST", "/v2/systemsharedmemory/unregister", "").await;
        }
    }
}

fn without_digits_behind(text: &str, name: &str) -> String {
    let mut pieces = text.split(name);
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |text, piece| text + name + piece.trim_start_matches(|c: char| c.is_ascii_digit()))
}

async fn infers(http: &mut Http) {
    let x = r#"{"inputs":[{"name":"x","shape":[2],"datatype":"UINT8","data":[1,2]}]}"#;
    let answer = http.ask("POST", "/v2/models/secret/infer", x).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Writes the victim's shared memory and returns its key. It is called `secret` where the hostile one is another user: what one
/// user made belongs to all that it runs.
pub(crate) fn write_memory(door: Door, world: &World) -> &'static str {
    let key = if door.has_users() { SECRET } else { "of-one-user" };
    let path = world.memory(key);
    let write = move || std::fs::write(path, b"secret!!").unwrap();
    if door.has_users() {
        as_user(Who::Victim.uid(), write)
    } else {
        write()
    }
    key
}

/// Every call that is about no name: what they tell is all of the caller's.
fn list_calls() -> Vec<Call> {
    let mut calls = Vec::new();
    let mut call =
        |method, path: &str, body: &str| calls.push(Call { method, path: path.into(), body: body.into() });
    for path in [
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/stats",
        "/v2/systemsharedmemory/status",
        "/v2/cudasharedmemory/status",
        "/v2/diolkos/status",
        "/v2/diolkos/jobs",
        "/v2/diolkos/tenants",
        "/metrics",
        "/v2/models",
        "/",
    ] {
        call("GET", path, "");
    }
    for body in ["", "{}", r#"{"ready":true}"#, r#"{"ready":false}"#] {
        call("POST", "/v2/repository/index", body);
    }
    call("POST", "/v2/systemsharedmemory/unregister", "");
    call("POST", "/v2/cudasharedmemory/unregister", "");
    calls
}

#[tokio::test]
async fn nothing_of_another_tenant_shows_in_rest_and_nothing_changes() {
    for may_load in [true, false] {
        let world = world(may_load).await;
        for door in Door::all(&world) {
            let mut victim = Victim::settle(door, &world).await;
            let before = victim.sees().await;
            let mut hostile = Http::connect(door, &world, Who::Hostile).await;
            let absent = u64::MAX;
            let pairs = calls(SECRET, victim.job.unwrap_or(absent)).into_iter().zip(calls(NOBODY, absent));
            for (theirs, nobodys) in pairs {
                let about_nobody = hostile.ask(nobodys.method, &nobodys.path, &nobodys.body).await;
                let told = hostile.ask(theirs.method, &theirs.path, &theirs.body).await;
                let Call { method, path, body } = &theirs;
                assert_eq!(told.renamed(SECRET, NOBODY), about_nobody, "{door:?}: {method} {path} {body}");
                if path.ends_with("/infer") {
                    assert!(about_nobody.status >= 400, "{door:?}: {path} {about_nobody:?}");
                }
            }
            for Call { method, path, body } in list_calls() {
                let told = hostile.ask(method, &path, &body).await;
                assert!(!told.body.contains(SECRET), "{door:?}: {method} {path} {body}: {told:?}");
            }
            assert_eq!(victim.sees().await, before, "{door:?}");
            victim.uses_and_leaves().await;
            // It was served itself all the while.
            let own = r#"{"inputs":[{"name":"data","shape":[2],"datatype":"UINT8","data":[1,2]}]}"#;
            assert_eq!(hostile.ask("POST", "/v2/models/echo/infer", own).await.status, 200, "{door:?}");
        }
        world.daemon.shutdown().await;
    }
}

#[tokio::test]
async fn who_one_says_to_be_counts_for_nothing_in_rest() {
    let world = world(false).await;
    for door in Door::all(&world) {
        // A bridge may speak for it.
        if !matches!(door, Door::Bridge) {
            let own = door.claims(&world, Who::Hostile);
            let speaks_for = |tenant: &str| Claims { tenant: Some(tenant.into()), ..own.clone() };
            let mut told = Vec::new();
            for name in [SECRET, NOBODY] {
                let connected = Http::connect(door, &world, Who::Hostile).await;
                told.push(connected.claiming(speaks_for(name)).get("/v2/models/secret").await);
            }
            assert_eq!(told[0].status, 403, "{door:?}: {:?}", told[0]);
            assert_eq!(told[0].clone().renamed(SECRET, NOBODY), told[1], "{door:?}");
        }
        // Where the kernel says who it is, a token that was stolen is nothing.
        if matches!(door, Door::UnixSocket | Door::UnixUser | Door::Machine) {
            let stolen = Claims { token: Some(world.tokens.of(Who::Victim).clone()), ..Claims::default() };
            let mut http = Http::connect(door, &world, Who::Hostile).await.claiming(stolen);
            let (theirs, nobodys) =
                (http.get("/v2/models/secret").await, http.get("/v2/models/nobody").await);
            assert!(theirs.status >= 400, "{door:?}: {theirs:?}");
            assert_eq!(theirs.renamed(SECRET, NOBODY), nobodys, "{door:?}");
        }
    }
    world.daemon.shutdown().await;
}

/// Every path of the router, as its sources write it.
#[test]
fn every_route_is_tried() {
    let sources = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/rest");
    let Ok(sources) = std::fs::read_dir(sources) else {
        return eprintln!("skipped: the sources are not here");
    };
    let mut routes = Vec::new();
    for source in sources.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        let text = std::fs::read_to_string(source).unwrap();
        let literals = |opening: &str| {
            let pieces: Vec<&str> = text.split(opening).skip(1).collect();
            pieces.into_iter().map(|piece| piece.split('"').next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        routes.extend(literals(".route(\""));
        for suffix in literals("both(router, \"") {
            routes.push(format!("/v2/models/{{model}}{suffix}"));
            routes.push(format!("/v2/models/{{model}}/versions/{{version}}{suffix}"));
        }
    }
    assert!(routes.len() > 30, "{routes:?}");
    let named = calls(SECRET, 7).into_iter().map(|call| call.path);
    let tried: Vec<String> = named.chain(list_calls().into_iter().map(|call| call.path)).collect();
    routes.retain(|route| !tried.iter().any(|path| fits(route, path)));
    assert_eq!(routes, ["/v2/"], "it is `/v2`");
}

/// Whether a path is of this route.
fn fits(route: &str, path: &str) -> bool {
    let path = path.split('?').next().unwrap();
    let (route, path): (Vec<&str>, Vec<&str>) = (route.split('/').collect(), path.split('/').collect());
    route.len() == path.len()
        && route.iter().zip(path).all(|(part, given)| part.starts_with('{') || *part == given)
}
