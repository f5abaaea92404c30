// SPDX-License-Identifier: Apache-2.0
//! The file that keeps added tenants over a restart: `[tenants.NAME]` as in the settings, written whole and then put in place.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::settings::{SettingsError, TenantSettings, tenants_from_toml, tenants_to_toml};

/// What stands above the tenants.
const HEADER: &str =
    "# Tenants that were added while the daemon ran (`diolkos tenant add`). The daemon writes this file.\n";

/// The file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// The system says no.
    #[error("can't use `{}` (tenants_file)", .path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The daemon is just ending.
    #[error("the daemon ended before the tenants' file was written")]
    Interrupted,
    /// Somebody wrote something else into it.
    #[error(transparent)]
    Wrong(#[from] SettingsError),
}

/// Reads it; one that is not there keeps nobody.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, TenantSettings>, KeptError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(tenants_from_toml(&text, path)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(source) => Err(KeptError::System { path: path.into(), source }),
    }
}

/// Writes it. Whoever reads it at any moment, after a power cut too, finds all of the old or all of the new.
pub(super) fn write(path: &Path, tenants: &BTreeMap<String, TenantSettings>) -> Result<(), KeptError> {
    let written = || {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let next = PathBuf::from(name);
        // One that is left of a daemon that was killed, or a link that somebody put there.
        match std::fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
        file.write_all(HEADER.as_bytes())?;
        file.write_all(tenants_to_toml(tenants).as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&next, path)?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // The new one is there; whether a power cut could take it back does not change what is in force.
        if let Err(error) = File::open(dir).and_then(|dir| dir.sync_all()) {
            tracing::warn!(path = %path.display(), %error, "the directory of the tenants' file was not synced");
        }
        Ok(())
    };
    written().map_err(|source| KeptError::System { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.toml");
        assert!(read(&path).unwrap().is_empty());
        let tenants = BTreeMap::from([("a".to_owned(), TenantSettings::only(3))]);
        write(&path, &tenants).unwrap();
        assert_eq!(read(&path).unwrap(), tenants);
        write(&path, &BTreeMap::new()).unwrap();
        assert!(read(&path).unwrap().is_empty());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_somebody_broke_is_told_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.toml");
        std::fs::write(&path, "[tenants.a]\nrat = 1\n").unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("t.toml:2:1: unknown key `tenants.a.rat`"), "{error}");
        let nowhere = write(&dir.path().join("none/t.toml"), &BTreeMap::new()).unwrap_err();
        assert!(nowhere.to_string().contains("(tenants_file)"), "{nowhere}");
    }
}
