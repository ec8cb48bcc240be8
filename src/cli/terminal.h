// What a person sees: stderr for people, stdout for results. Knows whether anyone watches.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace skipway {

/// stderr is a terminal, and neither TERM=dumb nor CI says otherwise.
bool is_interactive();
/// is_interactive and NO_COLOR is not set.
bool has_colour();
/// Width of the terminal on stderr [columns]; 80 when it is none.
int terminal_columns();

/// One line to stderr, above the status line if there is one.
void print_line(std::string_view line);
/// One line to stdout.
void print_result(std::string_view line);
/// One JSON object and a newline to stdout; what --json gives.
void print_json(const nlohmann::ordered_json& object);

/// Of --quiet: nothing is to be shown of what goes on. False at first.
void set_quiet(bool quiet);
bool is_quiet();
/// Replaces the status line at the foot of the terminal; does nothing when not interactive, or
/// quiet. Cut to the terminal's width.
void show_status(std::string_view line);
void clear_status();
/// "before ━━━┄┄┄ after": a bar of `share` in [0,1] that takes what the two leave of a status line
/// in a terminal of so many `columns`; 24 columns at most, and none rather than the end of `after`.
std::string with_bar(std::string_view before, double share, std::string_view after, int columns);

/// `text` in bold, dim, green, yellow or red when has_colour().
std::string styled(std::string_view text, std::string_view style);
/// `text` without control characters but for line breaks, tabs and what styled() put in: names in
/// files from elsewhere must not command the terminal.
std::string printable(std::string_view text);
/// `text` without what styled() put in.
std::string without_style(std::string_view text);

/// "1:05:09", "4:03", for durations [s].
std::string format_duration(double seconds);
/// "1.4 GB", "512 kB" (powers of ten).
std::string format_bytes(double bytes);

}  // namespace skipway
