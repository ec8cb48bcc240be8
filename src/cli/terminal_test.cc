// Tests of formatting and of what is written where; a real terminal is in tests/e2e_train_test.cc.
#include "cli/terminal.h"

#include <gtest/gtest.h>
#include <stdlib.h>

namespace skipway {
namespace {

TEST(Terminal, DurationsReadLikeAClock) {
  EXPECT_EQ(format_duration(0), "0:00");
  EXPECT_EQ(format_duration(243), "4:03");
  EXPECT_EQ(format_duration(59.6), "1:00");
  EXPECT_EQ(format_duration(3909), "1:05:09");
  EXPECT_EQ(format_duration(-1), "-:--");
  EXPECT_EQ(format_duration(1.0 / 0.0), "-:--");
}

TEST(Terminal, BytesHaveUnitsOfPowersOfTen) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(999), "999 B");
  EXPECT_EQ(format_bytes(512e3), "512 kB");
  EXPECT_EQ(format_bytes(999.9e3), "1.0 MB");
  EXPECT_EQ(format_bytes(1.4e9), "1.4 GB");
  EXPECT_EQ(format_bytes(9.97e9), "10 GB");
}

TEST(Terminal, NamesDoNotCommandIt) {
  EXPECT_EQ(printable("a\x1b[1A\x1b[2Kb\r\x7f\a.jpg"), "a[1A[2Kb.jpg");
  EXPECT_EQ(printable("\x1b[1;31merror:\x1b[0m täglich\n\tx"),
            "\x1b[1;31merror:\x1b[0m täglich\n\tx");
  EXPECT_EQ(printable("\x1b"), "");
  EXPECT_EQ(printable("\x1b[12"), "[12");
}

TEST(Terminal, OfStylesAloneATextIsFreed) {
  EXPECT_EQ(without_style("\x1b[31merror:\x1b[0m automobile"), "error: automobile");
  EXPECT_EQ(without_style("a\x1b.png,frog,0.9m"), "a\x1b.png,frog,0.9m");
  EXPECT_EQ(without_style("\x1b[3"), "\x1b[3");
}

TEST(Terminal, ABarTakesWhatTheTextLeaves) {
  EXPECT_EQ(with_bar("epoch 1", 0.5, "50 %", 80), "epoch 1 ━━━━━━━━━━━━┄┄┄┄┄┄┄┄┄┄┄┄ 50 %");
  EXPECT_EQ(with_bar("epoch 1", 0.5, "50 %", 18), "epoch 1 ━━┄┄ 50 %");  // one column stays free
  EXPECT_EQ(with_bar("epoch 1", 2, "…", 13), "epoch 1 ━━ …");
  for (const int columns : {14, 13, 5})
    EXPECT_EQ(with_bar("epoch 1", 0.5, "50 %", columns), "epoch 1 50 %");
}

TEST(Terminal, LinesGoToStderrAndResultsToStdout) {
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  print_line("for people");
  print_result("\x1b[1mfor\x1b[0m programs");
  print_json({{"b", 1}, {"a", "\xff"}});
  EXPECT_EQ(testing::internal::GetCapturedStdout(),
            "for programs\n{\"b\":1,\"a\":\"\xEF\xBF\xBD\"}\n");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "for people\n");
}

TEST(Terminal, NoStatusAndNoColourWhereNobodyWatches) {
  testing::internal::CaptureStderr();  // a file, not a terminal
  EXPECT_FALSE(is_interactive());
  EXPECT_EQ(terminal_columns(), 80);
  EXPECT_EQ(styled("text", "red"), "text");
  show_status("12 %");
  clear_status();
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

}  // namespace
}  // namespace skipway
