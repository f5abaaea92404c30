// SPDX-License-Identifier: Apache-2.0
//! Images drawn with block characters, two rows of pixels in one line of text.

/// Side of an image.
const SIDE: usize = 8;

/// Shades of grey in the 256-colour palette, dark to bright.
const GREYS: (u8, u8) = (232, 255);

/// Images side by side, as [`SIDE`] / 2 lines. Each is [`SIDE`] × [`SIDE`] bytes of brightness.
pub(super) fn band(images: &[&[u8]], colours: bool) -> Vec<String> {
    (0..SIDE / 2)
        .map(|line| {
            let rows = images.iter().map(|image| row(image, line, colours));
            rows.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect()
}

fn row(image: &[u8], line: usize, colours: bool) -> String {
    let pixel = |row: usize, column: usize| image.get(row * SIDE + column).copied().unwrap_or(0);
    let mut text = String::new();
    for column in 0..SIDE {
        let (upper, lower) = (pixel(2 * line, column), pixel(2 * line + 1, column));
        if colours {
            text += &format!("\x1b[38;5;{};48;5;{}m▀", grey(upper), grey(lower));
        } else {
            text.push(match (upper >= 128, lower >= 128) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            });
        }
    }
    if colours {
        text += "\x1b[0m";
    }
    text
}

fn grey(brightness: u8) -> u8 {
    let (dark, bright) = GREYS;
    // The quotient is below the number of shades, which fits.
    dark + (u16::from(brightness) * u16::from(bright - dark) / 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_rows_share_a_line() {
        let mut image = [0u8; 64];
        image[0] = 255;
        image[9] = 255;
        image[2] = 255;
        image[10] = 255;
        let lines = band(&[&image, &image], false);
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[0], "▀▄█       ▀▄█");
        assert_eq!(lines[1], "");
        let colours = band(&[&image], true);
        assert!(colours[0].starts_with("\x1b[38;5;255;48;5;232m▀") && colours[0].ends_with("\x1b[0m"));
    }
}
