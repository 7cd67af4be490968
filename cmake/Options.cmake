# What a packager may choose, with `pip install . -C cmake.define.NAME=VALUE` (docs/build.md).

if(CMAKE_CROSSCOMPILING OR DEFINED ENV{SOURCE_DATE_EPOCH})
    set(_native_default OFF)
else()
    set(_native_default ON)
endif()

option(WHISPERQ_NATIVE "build _ggml for this very CPU (OFF: AVX2+FMA+F16C on x86-64, ARMv8-A on ARM)" ${_native_default})
option(WHISPERQ_METAL "build ggml's Metal backend" ${APPLE})
option(WHISPERQ_CUDA "build ggml's CUDA backend" OFF)
option(WHISPERQ_VULKAN "build ggml's Vulkan backend" OFF)
option(WHISPERQ_BLAS "build ggml's BLAS backend (Accelerate on macOS)" ${APPLE})
set(WHISPERQ_SANITIZE "" CACHE STRING "sanitizers for everything that we compile, e.g. address,undefined or thread")
set(WHISPERQ_WHISPER_CPP_DIR "" CACHE PATH "a whisper.cpp checkout to use instead of the pinned source")

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

find_program(CCACHE_PROGRAM ccache)
mark_as_advanced(CCACHE_PROGRAM)
if(CCACHE_PROGRAM)
    foreach(_lang C CXX CUDA)
        if(NOT DEFINED CMAKE_${_lang}_COMPILER_LAUNCHER)
            set(CMAKE_${_lang}_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
        endif()
    endforeach()
endif()

if(WHISPERQ_SANITIZE)
    add_compile_options(-fsanitize=${WHISPERQ_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
    add_link_options(-fsanitize=${WHISPERQ_SANITIZE})
endif()

function(whisperq_warnings target)
    target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU,Clang,AppleClang>:-Wall -Wextra -Wpedantic>)
endfunction()

# What both extensions share: the version, no symbols to the outside but the module's entry point, warnings.
function(whisperq_extension target)
    target_compile_definitions(${target} PRIVATE WHISPERQ_VERSION="${WHISPERQ_VERSION}")
    if(UNIX AND NOT APPLE)
        target_link_options(${target} PRIVATE -Wl,--exclude-libs,ALL)
    endif()
    whisperq_warnings(${target})
endfunction()
