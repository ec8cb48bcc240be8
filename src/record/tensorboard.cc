// Event messages by hand: the few fields that scalars need, so that no protocol-buffer
// library has to stand beside the one inside LibTorch.
#include "record/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>

#include "base/error.h"
#include "base/files.h"

namespace skipway {
namespace {

// The polynomial 0x1EDC6F41 with its bits reversed, as a CRC that shifts right needs it.
constexpr uint32_t kCastagnoli = 0x82f63b78;

constexpr std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? kCastagnoli : 0);
    table[byte] = crc;
  }
  return table;
}

// TFRecord stores CRCs rotated and shifted by this constant, so that the CRC of a record that
// itself contains CRCs stays useful. Source: tensorflow/core/lib/hash/crc32c.h.
constexpr uint32_t kMaskDelta = 0xa282ead8;

uint32_t masked_crc(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + kMaskDelta; }

// Any plain value as little-endian bytes (record/safetensors.cc asserts that memory is).
template <typename Value>
std::string raw(Value value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

// Wire format of protocol buffers: a key of field number and wire type, then the value.
std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}
std::string integer_field(int number, int64_t value) {
  return varint(static_cast<uint64_t>(number) << 3) + varint(static_cast<uint64_t>(value));
}
std::string double_field(int number, double value) {
  return varint(static_cast<uint64_t>(number) << 3 | 1) + raw(value);
}
std::string bytes_field(int number, std::string_view value) {
  return varint(static_cast<uint64_t>(number) << 3 | 2) + varint(value.size()) + std::string(value);
}
std::string float_field(int number, float value) {
  return varint(static_cast<uint64_t>(number) << 3 | 5) + raw(value);
}

// Field numbers of tensorflow's event.proto and summary.proto.
std::string event(const std::string& what) {
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  return double_field(1, now.count()) + what;
}
std::string summary_event(std::string_view tag, const std::string& value, int64_t step) {
  const std::string summary = bytes_field(1, bytes_field(1, tag) + value);
  return event(integer_field(2, step) + bytes_field(5, summary));
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  static constexpr std::array<uint32_t, 256> kTable = make_crc_table();
  uint32_t crc = ~0U;
  for (unsigned char byte : bytes) crc = kTable[(crc ^ byte) & 0xff] ^ (crc >> 8);
  return ~crc;
}

TensorBoardWriter::TensorBoardWriter(const fs::path& folder) {
  make_directories(folder);
  char host[256] = "";
  gethostname(host, sizeof(host) - 1);
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const std::string stem =
      fmt::format("events.out.tfevents.{:010}.{}.{}",
                  std::chrono::duration_cast<std::chrono::seconds>(now).count(), host, getpid());
  int n = 0;
  do path_ = folder / fmt::format("{}.{}", stem, n++);
  while (fs::exists(path_));
  file_.open(path_, std::ios::binary);
  if (!file_)
    fail(ErrorKind::kDisk, "tensorboard",
         "could not create {}: {}; free some space or mend its permissions", path_.string(),
         std::strerror(errno));
  write_event(event(bytes_field(3, "brain.Event:2")));
  flush();
}

void TensorBoardWriter::add_scalar(std::string_view tag, double value, int64_t step) {
  write_event(summary_event(tag, float_field(2, static_cast<float>(value)), step));
}

void TensorBoardWriter::forget_from(int64_t step) {
  // SessionLog.START, at which TensorBoard drops what it has from there on.
  write_event(event(integer_field(2, step) + bytes_field(7, integer_field(1, 1))));
}

void TensorBoardWriter::flush() {
  errno = 0;
  if (!file_.flush())
    fail(ErrorKind::kDisk, "tensorboard", "could not write {}: {}; free some space", path_.string(),
         errno ? std::strerror(errno) : "an earlier write failed");
}

void TensorBoardWriter::write_event(std::string_view payload) {
  const std::string length = raw(uint64_t{payload.size()});
  file_ << length << raw(masked_crc(length)) << payload << raw(masked_crc(payload));
}

}  // namespace skipway
