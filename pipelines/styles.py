"""The eight styles the service starts with; an administrator's edits live in the database, not here.

Prompts are short noun phrases: SDXL's text encoders read 75 tokens and weigh the first ones most. They say
nothing about who the person is; that comes from the selfie. IdentityNet is held at 0.65 where guidance_scale
is 10 or more, because both pull on contrast and together they burn the face.
"""

from dataclasses import dataclass
from typing import Final

from pipelines.presets import StylePreset

_NEVER: Final = (
    "painting, drawing, cartoon, anime, 3d render, plastic skin, airbrushed, deformed, asymmetric eyes, "
    "extra fingers, hands, text, watermark, logo, lowres, blurry face, oversaturated, "
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltinStyle:
    """A style as it is first stored: its preset, and what a customer reads about it."""

    preset: StylePreset
    name: str
    summary: str


BUILTIN: Final[tuple[BuiltinStyle, ...]] = (
    BuiltinStyle(
        name="Corporate",
        summary="A tailored suit before a calm grey-blue studio backdrop, for company pages and profiles.",
        preset=StylePreset(
            slug="corporate",
            subject="professional headshot photograph of a person, natural skin texture",
            wardrobe="tailored navy suit, crisp white shirt",
            setting="seamless grey-blue studio backdrop",
            lighting="large softbox key light, gentle fill, soft hair light",
            lens="85mm lens, f/4, sharp focus on the eyes",
            mood="confident friendly expression",
            composition="head and shoulders, facing camera",
            negative_prompt=_NEVER + "busy background, casual clothes, harsh shadows",
            guidance_scale=8.0,
            num_inference_steps=30,
            framing="head_and_shoulders",
        ),
    ),
    BuiltinStyle(
        name="Executive",
        summary="Dark wood, warm lamps and a fine suit, for boards, speakers and annual reports.",
        preset=StylePreset(
            slug="executive",
            subject="editorial portrait photograph of a person, detailed natural skin, fine pores",
            wardrobe="charcoal wool suit, silk details",
            setting="dark wood panelled office, warm lamps out of focus",
            lighting="directional window key light, low fill, warm rim light",
            lens="105mm lens, f/2.8, shallow depth of field",
            mood="calm authority, composed expression",
            composition="chest-up portrait, slight turn of the shoulders",
            negative_prompt=_NEVER + "bright white background, casual clothes, flat lighting, clutter",
            guidance_scale=10.0,
            num_inference_steps=34,
            controlnet_conditioning_scale=0.65,
            framing="chest",
        ),
    ),
    BuiltinStyle(
        name="Creative",
        summary="Painted colour and expressive light, for portfolios, studios and agencies.",
        preset=StylePreset(
            slug="creative",
            subject="studio portrait photograph of a person, real skin texture, catchlights",
            wardrobe="plain textured knit, bold single colour",
            setting="hand painted colour backdrop, teal and coral gradient",
            lighting="beauty dish key light, coloured gel on the background",
            lens="70mm lens, f/5.6, crisp detail",
            mood="lively curious expression",
            composition="close portrait, centred, clean negative space",
            negative_prompt=_NEVER + "business suit, office, dull colours, coloured skin, face paint",
            guidance_scale=11.0,
            num_inference_steps=36,
            controlnet_conditioning_scale=0.65,
            framing="close",
        ),
    ),
    BuiltinStyle(
        name="Tech",
        summary="A modern glass office and cool daylight, for product teams and founders.",
        preset=StylePreset(
            slug="tech",
            subject="professional portrait photograph of a person, natural skin texture",
            wardrobe="plain dark crew-neck sweater, minimal jacket",
            setting="modern glass office, soft cool lights out of focus",
            lighting="diffuse daylight from a large window, subtle blue rim light",
            lens="50mm lens, f/2, shallow depth of field",
            mood="approachable focused expression",
            composition="head and shoulders, relaxed posture",
            negative_prompt=_NEVER + "neon face, screens with text, tie, cluttered desk, dark room",
            guidance_scale=9.0,
            num_inference_steps=30,
            framing="head_and_shoulders",
        ),
    ),
    BuiltinStyle(
        name="Academic",
        summary="Quiet library shelves and reading light, for faculty pages, authors and conferences.",
        preset=StylePreset(
            slug="academic",
            subject="portrait photograph of a person, detailed skin, natural colours",
            wardrobe="tweed blazer over a plain shirt",
            setting="university library, wooden book shelves out of focus",
            lighting="soft window light from the side, warm ambient fill",
            lens="85mm lens, f/2.8, soft background",
            mood="thoughtful warm expression",
            composition="chest-up portrait, facing camera",
            negative_prompt=_NEVER + "graduation gown, readable book titles, harsh flash, sports clothes",
            guidance_scale=8.5,
            num_inference_steps=32,
            framing="chest",
        ),
    ),
    BuiltinStyle(
        name="Healthcare",
        summary="Bright, clean and reassuring, for clinics, practices and care teams.",
        preset=StylePreset(
            slug="healthcare",
            subject="professional headshot photograph of a person, natural skin texture",
            wardrobe="clean white coat over a light blue shirt",
            setting="bright modern clinic, white walls, large window out of focus",
            lighting="bright even daylight, soft shadows",
            lens="85mm lens, f/3.5, sharp focus on the eyes",
            mood="kind reassuring smile",
            composition="head and shoulders, facing camera",
            negative_prompt=_NEVER + "blood, surgery, mask, medical devices on the face, dark background",
            guidance_scale=7.5,
            num_inference_steps=28,
            framing="head_and_shoulders",
        ),
    ),
    BuiltinStyle(
        name="Casual",
        summary="Warm brick, soft lamps and an easy smile, for personal pages and social profiles.",
        preset=StylePreset(
            slug="casual",
            subject="candid portrait photograph of a person, real skin texture, natural hair",
            wardrobe="soft cotton shirt, open collar",
            setting="warm cafe interior, brick wall out of focus",
            lighting="soft window light, warm practical lamps",
            lens="50mm lens, f/1.8, creamy bokeh",
            mood="relaxed genuine smile",
            composition="close portrait, slightly off centre",
            negative_prompt=_NEVER + "suit, tie, studio backdrop, stiff pose, heavy makeup",
            guidance_scale=7.0,
            num_inference_steps=28,
            framing="close",
        ),
    ),
    BuiltinStyle(
        name="Outdoor",
        summary="Green leaves and low golden sun, for a fresh and natural portrait.",
        preset=StylePreset(
            slug="outdoor",
            subject="outdoor portrait photograph of a person, natural skin texture, fine hair detail",
            wardrobe="light jacket, earth tones",
            setting="park with green foliage out of focus",
            lighting="golden hour back light, soft reflector fill on the face",
            lens="135mm lens, f/2, round bokeh",
            mood="fresh open expression",
            composition="chest-up portrait, eye level",
            negative_prompt=_NEVER + "indoor, studio, harsh midday sun, squinting, snow, crowd",
            guidance_scale=10.5,
            num_inference_steps=34,
            controlnet_conditioning_scale=0.65,
            framing="chest",
        ),
    ),
)
