// Writes TensorBoard's event files: TFRecord framing (length, masked CRC-32C) around Event messages
// in protocol-buffer wire format. Reads nothing.
#pragma once
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string_view>

namespace skipway {

class TensorBoardWriter {
 public:
  /// Starts a new events.out.tfevents.<seconds>.<host>.<pid>.<n> file in `folder`, which is made if
  /// missing. Errors: kDisk.
  explicit TensorBoardWriter(const std::filesystem::path& folder);
  void add_scalar(std::string_view tag, double value, int64_t step);
  /// What was written of this step and later ones, in this file or others of the folder, is not
  /// shown any more: the run went back before it.
  void forget_from(int64_t step);
  /// Hands everything to the operating system. Errors: kDisk, also for earlier add_… calls.
  void flush();

 private:
  void write_event(std::string_view payload);
  std::filesystem::path path_;
  std::ofstream file_;
};

/// CRC-32C (Castagnoli), as TFRecord and iSCSI use it. Source: RFC 3720, appendix B.4.
uint32_t crc32c(std::string_view bytes);

}  // namespace skipway
